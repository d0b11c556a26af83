"""How far the features composed for a virtual video are from those extracted from its rendered file.

    python -m benchmarks.virtual_rendered --world outputs/world --model examples/sandbox_checkpoint

Videos of the preset `pu_valor_2` (without what needs a sentence encoder) are planned from the clips of a sandbox
world, composed, and rendered; the checkpoint's towers run on the clips and on the files. For each token, the distance
of the two rows is divided by the root mean square distance of the extracted rows of all videos from their mean: 0 is
equal; `mean_shuffled` is the distance of unrelated tokens. Tokens within 0.5 s of a cut may show the other side of it
and are listed apart.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.pseudo_untrimmed.composing import compose_features
from dataset_builders.pseudo_untrimmed.curation import prepare
from dataset_builders.pseudo_untrimmed.rendering import render_video
from dataset_builders.pseudo_untrimmed.settings import PRESETS, CurationSettings
from dataset_builders.pseudo_untrimmed.shards import build_shard
from dataset_builders.sources.clip_files import locate_clip
from dataset_builders.sources.media_folder import MediaFolder
from modeling_avicuna.interleaving_avicuna import num_modality_tokens
from train.checkpoint import load_model
from train.extract_features import encode_darkness, encode_media, encode_silence, read_media


PROGRAM = "python -m benchmarks.virtual_rendered"
NEAR_CUT = 0.5  # s
NOISES = {"no noise": None, "noise of 20 dB": 20.0}
FORMAT = {"width": 96, "height": 96, "fps": 8}  # of the sandbox's clips
WITHOUT_ENCODER = {"clustering": "none", "coherence_threshold": None, "ambiguity_threshold": None}


@dataclass
class AgreementOptions:
    """Options of `python -m benchmarks.virtual_rendered`."""

    world: Path = field(metadata={"help": "Folder of dataset_builders.sandbox, with clips and background clips."})
    model: str = field(default="examples/sandbox_checkpoint", metadata={"help": "Checkpoint whose towers run."})
    num_videos: int = field(default=20, metadata={"help": "Videos to compose and render."})
    seed: int = field(default=0, metadata={"help": "Seed of the plans."})
    results: Path = field(default=RESULTS / "virtual_rendered.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_videos")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(AgreementOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(["torch", "av"], num_videos=options.num_videos, seed=options.seed)
    model, processor = load_model(options.model).eval(), AutoProcessor.from_pretrained(options.model)
    preset = {
        name: value for name, value in PRESETS["pu_valor_2"].items() if name not in ("hard_absent", "preferences")
    }
    settings = CurationSettings(
        **preset,
        **WITHOUT_ENCODER,
        captions_file=str(options.world / "short_captions.json"),
        backgrounds_file=str(options.world / "backgrounds.json"),
        num_videos=options.num_videos,
        seed=options.seed,
    )
    settings.check()
    with tempfile.TemporaryDirectory() as scratch:
        rows = build_shard(prepare(settings, scratch).folder, "train", 0, settings=settings).to_pylist()
        results = compare(rows, options.world / "clips", Path(scratch), model, processor)
    write_results(options.results, conditions=conditions, results=results)


def compare(
    rows: list[dict], clips_dir: Path, scratch: Path, model: PreTrainedModel, processor: ProcessorMixin
) -> dict:
    """The distances of all tokens, by kind of noise and stream."""
    folder = MediaFolder(clips_dir)
    clip_ids = dict.fromkeys(segment["clip_id"] for row in rows for segment in row["segments"])
    files = {clip_id: file for clip_id in clip_ids if (file := locate_clip(folder, clip_id)) is not None}
    clips = {clip_id: extract(file.path, model, processor) for clip_id, file in files.items()}
    counts = num_modality_tokens(processor.num_av_tokens, processor.audio_interleaving_rate)
    extractor = processor.feature_extractor
    composed = [
        compose_features(
            row["segments"],
            clips,
            windows=(extractor.window_seconds, extractor.stride_seconds),
            silence=encode_silence(model, processor),
            darkness=encode_darkness(model, processor),
            num_video_tokens=counts[0],
            num_audio_tokens=counts[1],
        )
        for row in rows
    ]
    results: dict = {"num_segments": sum(len(row["segments"]) for row in rows)}
    for name, noise in NOISES.items():
        shown = []
        for row in rows:
            path = scratch / f"{row['id']}.mp4"
            render_video(
                row["segments"], files, path, duration=row["duration"], background_noise_snr_db=noise, **FORMAT
            )
            video, audio = extract(path, model, processor)
            tokens = processor("<video>", video_features=[video], audio_features=[audio])
            shown.append(tuple(tokens[key][0].numpy() for key in ("video_features", "audio_features")))
        results[name] = {
            stream: summarize(
                [ours[place] for ours in composed],
                [theirs[place] for theirs in shown],
                [near_cut(row, len(theirs[place])) for row, theirs in zip(rows, shown)],
            )
            for place, stream in enumerate(("video", "audio"))
        }
    return results


def extract(path: str | Path, model: PreTrainedModel, processor: ProcessorMixin) -> tuple[np.ndarray, np.ndarray]:
    """Visual and audio rows of a file."""
    return encode_media(model, read_media(Path(path), processor=processor)[0])


def near_cut(row: dict, num_tokens: int) -> np.ndarray:
    """Whether the moment of each token is close to the beginning or the end of a segment."""
    cuts = np.array([time for segment in row["segments"] for time in (segment["start"], segment["end"])])
    moments = (np.arange(num_tokens) + 0.5) / num_tokens * row["duration"]
    return np.abs(moments[:, None] - cuts).min(axis=1) < NEAR_CUT


def summarize(composed: list[np.ndarray], shown: list[np.ndarray], near: list[np.ndarray]) -> dict:
    """Relative distances: mean, median and 95th percentile over the tokens away from cuts, and the mean near them."""
    ours, theirs, close = np.concatenate(composed), np.concatenate(shown), np.concatenate(near)
    spread = np.sqrt(((theirs - theirs.mean(axis=0)) ** 2).sum(axis=1).mean())
    distances = np.linalg.norm(ours - theirs, axis=1) / spread
    away = distances[~close]
    figures = {"mean": away.mean(), "median": np.median(away), "p95": np.percentile(away, 95)}
    figures |= {"mean_near_cuts": distances[close].mean(), "mean_shuffled": shuffled(ours, theirs) / spread}
    counts = {"num_tokens": len(distances), "away_from_cuts": len(away)}
    return counts | {name: round(float(value), 3) for name, value in figures.items()}


def shuffled(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean distance of rows of unrelated tokens, for comparison."""
    order = np.random.default_rng(0).permutation(len(theirs))
    return float(np.linalg.norm(ours - theirs[order], axis=1).mean())


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
