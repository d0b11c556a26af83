"""What a checkpoint descends from: the stages that trained it, the parts it was put together from, and so its licence.

Reads the `training_summary.json` of `train/sft.py`, which tells the stages before it, too, and the `origin.json` of
`train.initialize` and of the converter. It reads no weights and guesses nothing: what no file tells is "not recorded".
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dataset_builders.release.card_facts import LICENCE_FILE, NOT_RECORDED
from modeling_avicuna.origin_avicuna import ORIGIN_FILE, RANDOM

from .facts import read_json


SUMMARY_FILE = "training_summary.json"  # written by train/summary.py
LLAMA_2 = re.compile(r"(?<![a-z])(vicuna|llama-?2)", re.IGNORECASE)  # AVicuna itself is a way to train any model
LLAMA_2_LICENCE = "The language model descends from Vicuna v1.5 and so from Llama 2: the weights fall under the Llama 2 Community License."
OTHER_LICENCE = "The weights follow the licences of the models and data that they descend from."
# the licence wants this line in a file of this name beside the weights
NOTICE_FILE = "Notice"
LLAMA_2_NOTICE = "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"


@dataclass(frozen=True)
class Lineage:
    """The way to a checkpoint.

    stages (`list[dict]`): training summaries, the first stage first.
    origin (`dict`, *optional*): who put the checkpoint together before the first stage, and from which parts.
    base (`str`, *optional*): the Hub id that the first stage started from.
    """

    stages: list[dict] = field(default_factory=list)
    origin: dict | None = None
    base: str | None = None

    def part(self, name: str) -> str:
        """Where a part came from, before training."""
        if self.origin is not None:
            return self.origin["parts"].get(name) or "-"
        return self.base or NOT_RECORDED

    @property
    def base_models(self) -> list[str]:
        """The Hub ids among what it descends from; the language model's first."""
        sources = (self.part(name) for name in ("language_model", "vision_tower", "audio_tower"))
        return list(dict.fromkeys(source for source in sources if "/" in source))

    @property
    def datasets(self) -> list[str]:
        """The Hub ids among the data sources of all stages."""
        return sorted({path for stage in self.stages for path in stage["hub_datasets"]})

    @property
    def names(self) -> list[str]:
        """Everything that is known of where the weights come from."""
        parts = self.origin["parts"].values() if self.origin else [self.base]
        return [name for name in parts if name not in (None, RANDOM)]

    def describe_origin(self) -> str:
        """One sentence on what stood before the first stage."""
        if self.origin is None:
            return f"Training began from {self.base}." if self.base else f"What training began from is {NOT_RECORDED}."
        merged = f", with the LoRA folders {', '.join(self.origin['merged'])} merged" if self.origin["merged"] else ""
        return f"Put together by `{self.origin['made_by']}` from {', '.join(self.names) or RANDOM}{merged}."


@dataclass(frozen=True)
class Licence:
    """What a card says of the weights' licence: the Hub's metadata, and a sentence."""

    metadata: dict[str, str]
    note: str
    is_llama_2: bool = False


def describe_licence(names: Iterable[str], *, license: str | None = None) -> Licence:
    """The licence of weights that descend from `names`; `license` is what their owner says, by the Hub's name of it.

    Raises:
        ValueError: the owner says another licence than Llama 2's of weights that descend from it.
    """
    names = list(dict.fromkeys(names))
    descends = [name for name in names if LLAMA_2.search(name)]
    if descends:
        if license not in (None, "llama2"):
            raise ValueError(
                f"the weights descend from {descends[0]} and so from Llama 2: their licence is llama2, not {license}"
            )
        return Licence({"license": "llama2"}, LLAMA_2_LICENCE, is_llama_2=True)
    note = OTHER_LICENCE + (f" They descend from {', '.join(names)}." if names else "")
    if license is not None:
        said = f"The weights are published under {license}."
        return Licence({"license": license}, f"{said} {note}" if names else said)
    return Licence({"license": "other", "license_name": "see-licences", "license_link": LICENCE_FILE}, note)


def read_lineage(checkpoint: Path) -> Lineage:
    """The descent of a checkpoint folder, from the files beside its weights.

    Raises:
        ValueError: a file that is not JSON, or a summary that does not say what it started from.
    """
    if (checkpoint / SUMMARY_FILE).is_file():
        return lineage_of(read_json(checkpoint / SUMMARY_FILE), where=str(checkpoint / SUMMARY_FILE))
    return Lineage(origin=read_json(checkpoint / ORIGIN_FILE) if (checkpoint / ORIGIN_FILE).is_file() else None)


def lineage_of(summary: dict, *, where: str) -> Lineage:
    """The descent that a training summary tells."""
    if "started_from" not in summary:
        raise ValueError(f"{where} does not say what the stage started from: not written by train/sft.py")
    before = summary["started_from"]
    own = {key: value for key, value in summary.items() if key != "started_from"}
    return Lineage(stages=[*before["stages"], own], origin=before["origin"], base=before["base"])
