"""Imports pure modules of `modeling_avicuna` and `dataset_builders` without what their packages load.

`import modeling_avicuna` loads torch and transformers, `import dataset_builders` loads datasets. `eval.events` runs
with numpy and scipy alone and needs only their pure files: readers of annotation files and of event texts.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType


PROJECT = Path(__file__).resolve().parents[1]


def import_light(name: str) -> ModuleType:
    """The module of a full name, such as "modeling_avicuna.timestamp_avicuna", without running its package's
    `__init__`.

    Relative imports between such modules work; the package has another name in `sys.modules`, so that a later import
    of the real one is not affected.
    """
    package, _, rest = name.partition(".")
    alias = f"_light_{package}"
    if alias not in sys.modules:
        module = ModuleType(alias)
        module.__path__ = [str(PROJECT / package)]
        sys.modules[alias] = module
    return importlib.import_module(f"{alias}.{rest}")
