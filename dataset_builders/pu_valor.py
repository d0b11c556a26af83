"""`load_dataset("pu_valor", captions_file=..., ...)`: curate pseudo-untrimmed videos when the dataset is built.

A thin `datasets` builder over `pseudo_untrimmed/`: settings are its configuration, shards its unit of parallel work. The
folder that `python -m dataset_builders.build` writes holds the same rows as plain Parquet and needs none of this.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.builder import Key

from .pseudo_untrimmed.curation import prepare, read_prepared
from .pseudo_untrimmed.settings import CurationSettings
from .pseudo_untrimmed.shards import build_shard, count_shards
from .schema import FEATURES


DESCRIPTION = "Pseudo-untrimmed videos composed of captioned clips, with time-stamped audio-visual events"
PREPARED_DIR = "pu_valor_prepared"
EMBEDDINGS_DIR = "caption_embeddings"


@dataclass
class PUValorConfig(CurationSettings, datasets.BuilderConfig):
    """`CurationSettings` as a `datasets` configuration, cached by the contents of its files."""

    def __post_init__(self):
        super().__post_init__()
        self.check()

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The name of the cached build: another captions file, or any other setting, is another build."""
        return f"{self.name}-{self.fingerprint()}"


class PUValor(datasets.ArrowBasedBuilder):
    """Builder of PU-VALOR; see `pseudo_untrimmed.settings.CurationSettings` for what can be set."""

    BUILDER_CONFIG_CLASS = PUValorConfig
    VERSION = datasets.Version("1.0.0")

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=DESCRIPTION, features=FEATURES)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        cache = Path(self._cache_dir_root)
        if self.config.embeddings_dir is None:
            self.config.embeddings_dir = str(cache / EMBEDDINGS_DIR)
        prepared = prepare(self.config, cache / PREPARED_DIR)
        if not dl_manager.is_streaming:
            for name in ("report.json", "dropped.jsonl"):
                (Path(self._output_dir) / name).write_bytes((prepared.folder / name).read_bytes())
        return [
            datasets.SplitGenerator(
                name=split,
                gen_kwargs={
                    "shards": list(range(count_shards(num_rows, self.config.videos_per_shard))),
                    "split": split,
                    "prepared": str(prepared.folder),
                },
            )
            for split, num_rows in prepared.num_rows.items()
        ]

    def _generate_tables(self, shards: list[int], split: str, prepared: str) -> Iterator[tuple[Key, pa.Table]]:
        for place, shard in enumerate(shards):
            yield Key(place, 0), build_shard(prepared, split, shard, settings=self.config)


__all__ = ["PUValor", "PUValorConfig", "read_prepared"]
