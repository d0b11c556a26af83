"""Docstring examples of every package are collected by `--doctest-modules`; see also tests/conftest.py."""

# The first needs a package that is not a dependency; the second is copied into the test suite of transformers; the
# third holds links to modeling_avicuna.
collect_ignore = ["eval/lmms_plugin/models", "tests/transformers_common_suite.py", "examples/sandbox_checkpoint"]
