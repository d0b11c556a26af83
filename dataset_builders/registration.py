"""Register the builders of this package with `datasets`, so that `load_dataset("pu_valor", ...)` finds them.

Since version 4, `datasets` does not load script files, and it has no hook for builders of other packages; names are
resolved to builders only in its table of packaged modules. That table is private. If its structure has changed,
`register_builders` emits a warning; the builder classes can still be used directly
(`PUValor(...).download_and_prepare()`).
"""

import hashlib
import warnings
from pathlib import Path

import datasets
import datasets.load
import datasets.packaged_modules


# Name for `load_dataset` -> module that holds its builder.
BUILDERS = {
    "pu_valor": "dataset_builders.pu_valor",
    "a5_222k": "dataset_builders.a5_222k",
    "image_text": "dataset_builders.image_text",
    "instruction": "dataset_builders.instruction",
}


class PackagedFactory(datasets.load.PackagedDatasetModuleFactory):
    """The factory of `datasets`, except that our builders get their files from their settings, not from a folder
    scan."""

    def get_module(self):
        if self.name not in BUILDERS:
            return super().get_module()
        if self.data_files is not None:
            raise ValueError(f"{self.name} takes its files from its settings, not from data_files={self.data_files!r}")
        module_path, code_hash = datasets.packaged_modules._PACKAGED_DATASETS_MODULES[self.name]
        # an empty list, not None: with None, `load_dataset` would require data files
        no_files = datasets.data_files.DataFilesDict({"train": datasets.data_files.DataFilesList([], [])})
        return datasets.load.DatasetModule(
            module_path, code_hash, {"data_files": no_files, "data_dir": self.data_dir, "dataset_name": self.name}
        )


def register_builders() -> bool:
    """Register `BUILDERS`. Returns False, with a warning that names the version, if `datasets` does not support it."""
    needed = (
        (datasets.packaged_modules, "_PACKAGED_DATASETS_MODULES"),
        (datasets.load, "_PACKAGED_DATASETS_MODULES"),
        (datasets.load, "PackagedDatasetModuleFactory"),
        (datasets.load, "DatasetModule"),
    )
    missing = [f"{module.__name__}.{name}" for module, name in needed if not hasattr(module, name)]
    if missing:
        warnings.warn(
            f"datasets {datasets.__version__} has no {missing}: load_dataset() will not know {sorted(BUILDERS)}; "
            "use the builder classes directly, or datasets 5.2, for which this was written",
            stacklevel=2,
        )
        return False
    code_hash = hash_code()
    for name, module_path in BUILDERS.items():
        datasets.packaged_modules._PACKAGED_DATASETS_MODULES[name] = (module_path, code_hash)
    datasets.load.PackagedDatasetModuleFactory = PackagedFactory
    return True


def hash_code() -> str:
    """Hash of all builder code, so that a change in any reader invalidates the cache. The sandbox is excluded: it
    reads no annotations."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if "sandbox" not in path.relative_to(folder).parts:
            digest.update(path.read_bytes())
    return digest.hexdigest()


__all__ = ["BUILDERS", "register_builders"]
