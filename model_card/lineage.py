"""The lineage of a checkpoint: its training stages, the models it was initialized from, and the resulting licence.

It is read from the `training_summary.json` of `train/sft.py`, which includes earlier stages, and the `origin.json` of
`train.initialize` and of the converter. Missing facts are reported as "not recorded".
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dataset_builders.release.card_facts import LICENCE_FILE, NOT_RECORDED
from dataset_builders.sources.annotation_files import read_object
from modeling_avicuna.origin_avicuna import ORIGIN_FILE, RANDOM


SUMMARY_FILE = "training_summary.json"  # written by train/summary.py
LLAMA_2 = re.compile(r"(?<![a-z])(vicuna|llama-?2)", re.IGNORECASE)  # not "AVicuna", which may have any base model
LLAMA_2_LICENCE = (
    "The language model derives from Vicuna v1.5 and therefore from Llama 2: the Llama 2 Community License applies to "
    "the weights."
)
OTHER_LICENCE = "The licences of the base models and of the training data apply to the weights."
# the licence requires this text in a file of this name
NOTICE_FILE = "Notice"
LLAMA_2_NOTICE = (
    "Llama 2 is licensed under the LLAMA 2 Community License, "
    "Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
)


@dataclass(frozen=True)
class Lineage:
    """How a checkpoint was made.

    stages (`list[dict]`): training summaries, the first stage first.
    origin (`dict`, *optional*): the command that assembled the first checkpoint, and its parts.
    base (`str`, *optional*): the Hub id from which the first stage started.
    """

    stages: list[dict] = field(default_factory=list)
    origin: dict | None = None
    base: str | None = None

    def part(self, name: str) -> str:
        """The source of a part before training."""
        if self.origin is not None:
            return self.origin["parts"].get(name) or "-"
        return self.base or NOT_RECORDED

    @property
    def base_models(self) -> list[str]:
        """Hub ids of the base models, the language model first."""
        sources = (self.part(name) for name in ("language_model", "vision_tower", "audio_tower"))
        return list(dict.fromkeys(source for source in sources if "/" in source))

    @property
    def datasets(self) -> list[str]:
        """Hub ids among the data sources of all stages."""
        return sorted({path for stage in self.stages for path in stage["hub_datasets"]})

    @property
    def names(self) -> list[str]:
        """All recorded sources of the weights."""
        parts = self.origin["parts"].values() if self.origin else [self.base]
        return [name for name in parts if name not in (None, RANDOM)]

    def describe_origin(self) -> str:
        """One sentence about the checkpoint before the first stage."""
        if self.origin is None:
            return f"Training started from {self.base}." if self.base else f"The start of training is {NOT_RECORDED}."
        merged = f", with the LoRA folders {', '.join(self.origin['merged'])} merged" if self.origin["merged"] else ""
        return f"Assembled by `{self.origin['made_by']}` from {', '.join(self.names) or RANDOM}{merged}."


@dataclass(frozen=True)
class Licence:
    """The licence of the weights as Hub metadata and as a sentence."""

    metadata: dict[str, str]
    note: str
    is_llama_2: bool = False


def describe_licence(names: Iterable[str], *, license: str | None = None) -> Licence:
    """The licence of weights that derive from `names`; `license` is a Hub identifier chosen by the owner.

    Raises:
        ValueError: another licence than Llama 2's was given for weights that derive from it.
    """
    names = list(dict.fromkeys(names))
    derived = [name for name in names if LLAMA_2.search(name)]
    if derived:
        if license not in (None, "llama2"):
            raise ValueError(
                f"the weights derive from {derived[0]} and therefore from Llama 2: their licence is llama2, "
                f"not {license}"
            )
        return Licence({"license": "llama2"}, LLAMA_2_LICENCE, is_llama_2=True)
    note = OTHER_LICENCE + (f" They derive from {', '.join(names)}." if names else "")
    if license is not None:
        published = f"The weights are published under {license}."
        return Licence({"license": license}, f"{published} {note}" if names else published)
    return Licence({"license": "other", "license_name": "see-licences", "license_link": LICENCE_FILE}, note)


def read_lineage(checkpoint: Path) -> Lineage:
    """The lineage of a checkpoint folder. ValueError for a summary without the history of the stage."""
    if (checkpoint / SUMMARY_FILE).is_file():
        return lineage_of(read_object(checkpoint / SUMMARY_FILE), where=str(checkpoint / SUMMARY_FILE))
    path = checkpoint / ORIGIN_FILE
    if not path.is_file():
        return Lineage()
    origin = read_object(path)
    if not (isinstance(origin.get("parts"), dict) and isinstance(origin.get("merged"), list) and "made_by" in origin):
        raise ValueError(f"{path} was not written by a command of this project")
    return Lineage(origin=origin)


def lineage_of(summary: dict, *, where: str) -> Lineage:
    """The lineage recorded in a training summary."""
    before = summary.get("started_from")
    if not isinstance(before, dict) or not {"stages", "origin", "base"} <= set(before):
        raise ValueError(f"{where} has no `started_from`: it was not written by train/sft.py")
    own = {key: value for key, value in summary.items() if key != "started_from"}
    return Lineage(stages=[*before["stages"], own], origin=before["origin"], base=before["base"])
