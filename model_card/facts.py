"""Contents of the model card: table rows made from weights, configuration, training summaries and result files."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult
from safetensors import SafetensorError, safe_open

from dataset_builders.release.provenance import model_hash


PARTS = {
    "vision_tower": "vision tower",
    "audio_tower": "audio tower",
    "vision_adapter": "vision adapter",
    "audio_adapter": "audio adapter",
    "language_model": "language model",
    "lm_head": "output head",
}
SUB_CONFIGS = {"vision_tower": "vision_config", "audio_tower": "audio_config", "language_model": "text_config"}
# tensors of a checkpoint that are not parameters: statistics of CLAP's batch normalisation
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
JUDGE_SCORE = "score"  # of eval.judge: the only metric that is not in 0-100


@dataclass(frozen=True)
class Part:
    """A sub-module of the checkpoint: a description of its configuration, its source and its parameter count."""

    name: str
    description: str
    source: str
    num_parameters: int


def count_parameters(checkpoint: Path) -> tuple[dict[str, int], set[str]]:
    """Parameters per part and data types, from the safetensors headers. ValueError for an unknown weight or file."""
    counts = dict.fromkeys(PARTS, 0)
    dtypes = set()
    for path in sorted(checkpoint.glob("*.safetensors")):
        for name, shape, dtype in read_headers(path):
            if name.endswith(BUFFERS):
                continue
            part = next((part for part in PARTS if part in name.split(".")), None)
            if part is None:
                raise ValueError(f"{path}: {name} belongs to no known part of the model")
            counts[part] += math.prod(shape)
            dtypes.add(dtype)
    return counts, dtypes


def read_headers(path: Path) -> list[tuple[str, list[int], str]]:
    """Name, shape and data type of each tensor of a safetensors file. ValueError for a file of another kind."""
    try:
        with safe_open(path, framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}
            return [(name, tensor.get_shape(), tensor.get_dtype()) for name, tensor in slices.items()]
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def has_both_towers(config: dict) -> bool:
    """Whether a checkpoint accepts media files. Without a tower it accepts cached features instead."""
    return bool(config.get("vision_config")) and bool(config.get("audio_config"))


def describe_parts(config: dict, counts: dict[str, int], *, source_of: Callable[[str], str]) -> list[Part]:
    """One row per part of the model, including absent towers; `source_of` gives the source of a part."""
    parts = []
    for key, name in PARTS.items():
        sub_config = config.get(SUB_CONFIGS.get(key, "")) or {}
        described = [sub_config["model_type"]] if "model_type" in sub_config else []
        if "hidden_size" in sub_config:
            described.append(f"width {sub_config['hidden_size']}")
        if "num_hidden_layers" in sub_config:
            described.append(f"{sub_config['num_hidden_layers']} layers")
        if not counts[key] and key.endswith("_tower"):
            described = ["not included: reads cached features"]
        elif not counts[key] and key == "lm_head":
            described = ["shares the word embeddings"]
        source = source_of("language_model" if key == "lm_head" else key)
        parts.append(Part(name, ", ".join(described) or "-", source, counts[key]))
    return parts


def describe_stages(summaries: Iterable[dict]) -> list[dict]:
    """The rows of the training table."""
    stages = []
    for summary in summaries:
        recipe = summary.get("recipe", {})
        trained = recipe.get("trainable") or []
        stages.append(
            {
                "name": summary["stage"] or "no recipe",
                "trained": ", ".join([*trained, *(["LoRA"] if recipe.get("use_peft") else [])]) or "-",
                "sources": ", ".join(f"{name} {num:,}" for name, num in summary["rows_per_source"].items()),
                "num_dropped": sum(summary["dropped"].values()),
                "steps": summary["steps"],
                "effective_batch_size": summary["effective_batch_size"],
                "learning_rate": recipe.get("learning_rate", "default"),
                **{
                    name: "-" if summary[name] is None else f"{summary[name]:.3f}"  # None: too short to log a loss
                    for name in ("first_loss", "final_loss")
                },
                "seconds": f"{summary['seconds']:.0f}",
            }
        )
    return stages


def describe_environment(summaries: list[dict]) -> str:
    """One sentence per distinct set of processes, device, precision, versions and commit in the training summaries."""
    sentences: dict[str, None] = {}
    for summary in summaries:
        versions = ", ".join(f"{name} {version}" for name, version in sorted(summary["versions"].items()))
        commit = summary.get("git_commit") or "unknown"
        processes = f"{summary['world_size']} process" + ("es" if summary["world_size"] > 1 else "")
        sentence = (
            f"Trained on {processes}, {summary['device']}, in {summary['precision']} at commit `{commit}`; {versions}."
        )
        sentences[sentence] = None
    return " ".join(sentences)


def numeric_metrics(result: dict) -> dict[str, float]:
    """The metrics of a result that are numbers."""
    return {name: value for name, value in result["metrics"].items() if isinstance(value, int | float)}


def check_results(checkpoint: Path, results: Iterable[dict], *, repo_id: str) -> None:
    """Raise `ValueError` for a result of another model."""
    expected = {model_hash(str(checkpoint)), repo_id}
    for result in results:
        evaluated = result["settings"]["model_hash"]
        if evaluated not in expected:
            raise ValueError(
                f"{result['name']} was evaluated on another model ({result['model']}, {evaluated}) than {checkpoint}"
            )


def describe_results(results: Iterable[dict]) -> tuple[list[dict], list[str]]:
    """The rows of the evaluation table, and notes about judges and about unusable media."""
    rows, notes = [], []
    for result in results:
        for metric, value in numeric_metrics(result).items():
            shared = {key: result[key] for key in ("name", "num_examples", "num_expected")}
            on_judges_scale = bool(result.get("judge")) and metric.split("/")[0] == JUDGE_SCORE
            rows.append({**shared, "metric": f"{metric} (0 to 5)" if on_judges_scale else metric, "value": value})
        if result.get("judge"):
            judge = result["judge"]
            notes.append(
                f"{result['name']}: judged by {judge['model']} ({judge['version']}), "
                f"prompt {judge['prompt_sha256'][:12]}."
            )
        for kind in ("missing", "unreadable"):
            if result.get(kind):
                notes.append(f"{result['name']}: videos {kind} and therefore not scored: {len(result[kind])}.")
    return rows, notes


def model_index(results: Iterable[dict]) -> list[EvalResult]:
    """The results as Hub metadata, one entry per metric; the name includes the protocol."""
    return [
        EvalResult(
            task_type="video-text-to-text",
            dataset_type=result["task"],
            dataset_name=result["dataset"]["name"],
            dataset_split=result["dataset"]["split"],
            metric_type=metric,
            metric_name=f"{metric} ({result['name']})",
            metric_value=round(float(value), 4),
        )
        for result in results
        for metric, value in numeric_metrics(result).items()
    ]


def describe_time(config: dict) -> tuple[str, str]:
    """The format in which the model writes times, and its resolution."""
    bins = config.get("num_time_bins", 100)
    if config.get("time_unit", "relative") == "seconds":
        return "seconds with one decimal", "a tenth of a second at best"
    digits = len(str(bins - 1))
    return f"{digits} digits, 0 to {bins - 1} of the video's length", f"1/{bins} of the video's length"
