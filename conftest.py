"""Docstring examples of every package are collected by `--doctest-modules`; see also tests/conftest.py."""

# need a package that is not among the project's dependencies
collect_ignore = ["eval/lmms_plugin/models"]
