"""Docstring examples of every package are collected by `--doctest-modules`; see also tests/conftest.py."""

# the first needs a package that is not a dependency; the second is copied into the test suite of transformers to be run;
# the third holds links to modeling_avicuna
collect_ignore = ["eval/lmms_plugin/models", "tests/transformers_common_suite.py", "examples/sandbox_checkpoint"]
