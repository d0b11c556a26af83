"""lmms-eval searches this folder for task files. The project's own benchmarks are run by `eval.run`; there are none here."""
