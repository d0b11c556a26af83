"""Build PU-VALOR's shards as tasks of datatrove, for more than one machine (optional extra: `pip install
avicuna[cluster]`).

A shard is a pure function of the settings and its number, so any engine can distribute the shards. datatrove provides
executors for Slurm, Ray and the local machine. The final call, `build_folder` without `shards`, finds all shards done
and writes the card.

    SlurmPipelineExecutor(pipeline=[BuildShards(settings, output)], tasks=64, ...).run()
    build_folder(settings, output)
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from ..pseudo_untrimmed.settings import CurationSettings
from .pu_valor_folder import build_folder, list_shards, prepare_folder


class BuildShards(PipelineStep):
    """Pipeline step without documents: task `rank` of `world_size` writes every `world_size`-th shard of the folder.

    All tasks need access to the captions file, the encoder and `output`.
    """

    name = "PU-VALOR shards"
    type = "BUILD"

    def __init__(self, settings: CurationSettings, output: str | Path):
        super().__init__()
        self.settings, self.output = settings, str(output)

    def run(self, data: Iterable | None, rank: int = 0, world_size: int = 1) -> Iterator:
        prepared = prepare_folder(self.settings, self.output)
        shards = list_shards(prepared, self.settings)[rank::world_size]
        build_folder(self.settings, self.output, shards=shards)
        self.stat_update("shards", value=len(shards))
        yield from data or ()
