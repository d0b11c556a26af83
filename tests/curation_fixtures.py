"""Small inputs for the tests of the curation: synthetic captions and settings that need no sentence encoder."""

import json
from pathlib import Path

from datasets import load_dataset

from dataset_builders.pseudo_untrimmed.settings import CurationSettings


THINGS = (
    "a dog",
    "a bell",
    "a train",
    "an engine",
    "a child",
    "the rain",
    "a violin",
    "two men",
    "a crowd",
    "a kettle",
)
DEEDS = ("can be heard", "moves to the left", "is louder than before", "stands by the door", "passes the camera")
PLACES = (
    "in a room",
    "on a street",
    "at night",
    "by the sea",
    "in the yard",
    "under a bridge",
    "on a stage",
    "far away",
)


def make_captions(num_clips: int) -> list[dict]:
    """`num_clips` records in the format of VALOR, all captions different."""
    records = []
    for index in range(num_clips):
        rest, thing = divmod(index, len(THINGS))
        rest, deed = divmod(rest, len(DEEDS))
        rest, place = divmod(rest, len(PLACES))
        number = f" Number {rest}." if rest else ""
        desc = f"{THINGS[thing].capitalize()} {DEEDS[deed]} {PLACES[place]}.{number}"
        records.append({"video_id": f"-clip_{index:05d}_{10 * index}.000_{10 * index + 10}.000", "desc": desc})
    return records


def write_captions(path: Path, num_clips: int = 60) -> Path:
    path.write_text(json.dumps(make_captions(num_clips)), encoding="utf-8")
    return path


def quick_options(captions_file: Path, /, **changes) -> dict:
    """Options of a build without a sentence encoder: one cluster, no filter on cosines."""
    options = {
        "captions_file": str(captions_file),
        "num_videos": 40,
        "clustering": "none",
        "coherence_threshold": None,
        "ambiguity_threshold": None,
    }
    return {**options, **changes}


def quick_settings(captions_file: Path, **changes) -> CurationSettings:
    settings = CurationSettings(**quick_options(captions_file, **changes))
    settings.check()
    return settings


def load_pu_valor(
    captions_file, /, *, cache_dir, name="pu_valor", num_proc=None, streaming=False, split=None, **changes
):
    """`load_dataset("pu_valor")` with the options of `quick_options`."""
    options = quick_options(captions_file, **changes)
    return load_dataset(name, cache_dir=str(cache_dir), num_proc=num_proc, streaming=streaming, split=split, **options)
