"""`load_dataset("pu_valor", captions_file=..., ...)`: curate pseudo-untrimmed videos when the data set is built.

A thin `datasets` builder over `pseudo_untrimmed/`: settings are its configuration, shards its unit of parallel work.
`python -m dataset_builders.build` writes the same rows as plain Parquet files, which load without this builder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from .builder_base import RowsBuilder
from .input_settings import InputConfig
from .pseudo_untrimmed.curation import prepare, read_prepared, write_account
from .pseudo_untrimmed.rendered_rows import list_clips, read_drops, render_rows, write_drops
from .pseudo_untrimmed.settings import CurationSettings
from .pseudo_untrimmed.shards import build_shard, count_shards


PREPARED_DIR = "pu_valor_prepared"
EMBEDDINGS_DIR = "caption_embeddings"
VIDEOS_DIR = "pu_valor_videos"


@dataclass
class PUValorConfig(CurationSettings, InputConfig):
    """`CurationSettings` as a `datasets` configuration."""

    def __post_init__(self):
        super().__post_init__()
        self.check()


class PUValor(RowsBuilder):
    """Builder of PU-VALOR; see `pseudo_untrimmed.settings.CurationSettings` for the settings."""

    BUILDER_CONFIG_CLASS = PUValorConfig
    DESCRIPTION = "Pseudo-untrimmed videos composed of captioned clips, with time-stamped audio-visual events"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.DESCRIPTION, features=self.config.row_features)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        cache = Path(self._cache_dir_root)
        if self.config.embeddings_dir is None:
            self.config.embeddings_dir = str(cache / EMBEDDINGS_DIR)
        prepared = prepare(self.config, cache / PREPARED_DIR)
        return [
            datasets.SplitGenerator(
                name=split,
                gen_kwargs={
                    "shards": list(range(count_shards(num_rows, self.config.shard_rows))),
                    "split": split,
                    "prepared": str(prepared.folder),
                },
            )
            for split, num_rows in prepared.num_rows.items()
        ]

    def _generate_tables(self, shards: list[int], split: str, prepared: str) -> Iterator[tuple[int, pa.Table]]:
        for place, shard in enumerate(shards):
            table = build_shard(prepared, split, shard, settings=self.config)
            if self.config.media == "rendered":
                clips = list_clips(self.config.folder("clips_dir"), prepared)
                table, drops = render_rows(table, self._videos_dir / split, clips=clips, settings=self.config)
                write_drops(self._videos_dir, f"{split}-{shard:05d}", drops)
            yield place, table

    def _download_and_prepare(
        self, dl_manager: datasets.DownloadManager, verification_mode: Any, **prepare_split_kwargs: Any
    ) -> None:
        super()._download_and_prepare(dl_manager, verification_mode, **prepare_split_kwargs)
        prepared = read_prepared(Path(self._cache_dir_root) / PREPARED_DIR / self.config.fingerprint())
        drops = read_drops(self._videos_dir) if self.config.media == "rendered" else []
        write_account(self._output_dir, prepared, drops)

    @property
    def _videos_dir(self) -> Path:
        return Path(self._cache_dir_root) / VIDEOS_DIR / self.config.fingerprint()
