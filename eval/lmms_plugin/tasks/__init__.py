"""lmms-eval searches this folder for task files; it has none. The project's benchmarks are run by `eval.run`."""
