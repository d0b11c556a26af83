"""Make the builders of this package known to `datasets`, so that `load_dataset("pu_valor", ...)` finds them.

`datasets` has loaded no script files since version 4 and offers no hook for builders of other packages; its table of
packaged modules is the one place where a name becomes a builder. That table is private: where it is not as we know it,
`register_builders` says so and the builder classes still work by themselves (`PUValor(...).download_and_prepare()`).
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
    """As `datasets` has it, but our builders take their files from their own settings, not from a scan of a folder."""

    def get_module(self):
        if self.name not in BUILDERS:
            return super().get_module()
        if self.data_files is not None:
            raise ValueError(f"{self.name} takes its files by its own settings, not by data_files={self.data_files!r}")
        module_path, code_hash = datasets.packaged_modules._PACKAGED_DATASETS_MODULES[self.name]
        # an empty list, not None: `load_dataset` asks for data files where there are none
        no_files = datasets.data_files.DataFilesDict({"train": datasets.data_files.DataFilesList([], [])})
        return datasets.load.DatasetModule(
            module_path, code_hash, {"data_files": no_files, "data_dir": self.data_dir, "dataset_name": self.name}
        )


def register_builders() -> bool:
    """Register `BUILDERS`; False, with a warning that names the version, where `datasets` has no place for them."""
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
            "use the builder classes, or datasets 5.2, for which this was written",
            stacklevel=2,
        )
        return False
    code_hash = hash_code()
    for name, module_path in BUILDERS.items():
        datasets.packaged_modules._PACKAGED_DATASETS_MODULES[name] = (module_path, code_hash)
    datasets.load.PackagedDatasetModuleFactory = PackagedFactory
    return True


def hash_code() -> str:
    """Hash of all builder code: a change in any reader must not meet a stale cache. The sandbox's own code is no
    reader."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if "sandbox" not in path.relative_to(folder).parts:
            digest.update(path.read_bytes())
    return digest.hexdigest()


__all__ = ["BUILDERS", "register_builders"]
