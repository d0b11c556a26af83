"""Write the model card of a checkpoint from its configuration, its training summaries and its result files.

    python -m model_card.write --model outputs/demo/stage4/final --training outputs/demo/stage*/training_summary.json \
        --results outputs/demo/eval/results.json --output outputs/demo/card.md

No number is typed by hand: what has no file shows as "not run". The dataset cards are written where the datasets are
built (`dataset_builders`), from their curation reports.
"""

import argparse
import json
import math
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open


TEMPLATE = Path(__file__).with_name("model_card_template.md")
# The evaluations that a complete release has; a task without a result file is listed as "not run".
EXPECTED_TASKS = ("unav100", "avsd", "music_avqa", "msvd_qa", "msrvtt_qa", "activitynet_qa")
PARTS = {
    "vision_tower": "vision tower",
    "audio_tower": "audio tower",
    "vision_adapter": "vision adapter",
    "audio_adapter": "audio adapter",
    "language_model": "language model",
    "lm_head": "output head",
}
SUB_CONFIGS = {"vision_tower": "vision_config", "audio_tower": "audio_config", "language_model": "text_config"}
VICUNA_LICENCE = "The language model descends from Vicuna v1.5 and so from Llama 2: the weights fall under the Llama 2 Community License."
OTHER_LICENCE = "The weights follow the licences of the models that they descend from."
CODE_SAMPLE = """from transformers import AutoModelForMultimodalLM, AutoProcessor

model = AutoModelForMultimodalLM.from_pretrained("{repo_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)

messages = [{{"role": "user", "content": [
    {{"type": "video", "path": "example.mp4"}},
    {{"type": "text", "text": "What happens in the video, and when?"}},
]}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
generated = model.generate(**inputs, max_new_tokens=128)
print(processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])"""


@dataclass(frozen=True)
class Part:
    """A sub-module of the checkpoint, its configuration in words and its parameter count."""

    name: str
    description: str
    num_parameters: int


def read_json(path: Path) -> dict:
    """A JSON file as a dictionary; `ValueError` naming the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def count_parameters(checkpoint: Path) -> tuple[dict[str, int], set[str]]:
    """Parameters per part and the set of data types, read from the safetensors headers alone."""
    counts = dict.fromkeys(PARTS, 0)
    dtypes = set()
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():
                part = next((part for part in PARTS if part in name.split(".")), None)
                if part is None:
                    raise ValueError(f"{path.name}: {name} belongs to no known part of the model")
                tensor = weights.get_slice(name)
                counts[part] += math.prod(tensor.get_shape())
                dtypes.add(tensor.get_dtype())
    return counts, dtypes


def describe_parts(config: dict, counts: dict[str, int]) -> list[Part]:
    """One row per part of the model; a tower that the checkpoint does not hold says so."""
    parts = []
    for key, name in PARTS.items():
        sub_config = config.get(SUB_CONFIGS.get(key, "")) or {}
        described = [str(sub_config[field]) for field in ("model_type",) if field in sub_config]
        if "hidden_size" in sub_config:
            described.append(f"width {sub_config['hidden_size']}")
        if "num_hidden_layers" in sub_config:
            described.append(f"{sub_config['num_hidden_layers']} layers")
        if not counts[key] and key.endswith("_tower"):
            described = ["not included: reads cached features"]
        elif not counts[key] and key == "lm_head":
            described = ["shares the word embeddings"]
        parts.append(Part(name=name, description=", ".join(described) or "-", num_parameters=counts[key]))
    return parts


def describe_stages(summaries: Iterable[dict]) -> list[dict]:
    """The rows of the training table, in the order of the given `training_summary.json` files."""
    stages = []
    for summary in summaries:
        recipe = summary.get("recipe", {})
        trained = recipe.get("trainable") or []
        stages.append(
            {
                "name": summary["stage"],
                "trained": ", ".join([*trained, *(["LoRA"] if recipe.get("use_peft") else [])]) or "-",
                "num_rows": summary["num_rows"],
                "num_dropped": sum(summary.get("dropped", {}).values()),
                "steps": summary["steps"],
                "effective_batch_size": summary["effective_batch_size"],
                "learning_rate": recipe.get("learning_rate", "-"),
                "first_loss": f"{summary['first_loss']:.3f}",
                "final_loss": f"{summary['final_loss']:.3f}",
                "seconds": f"{summary['seconds']:.0f}",
            }
        )
    return stages


def describe_environment(summaries: list[dict]) -> str:
    """One sentence per distinct set of processes, precision and versions in the training summaries."""
    sentences = []
    for summary in summaries:
        versions = ", ".join(f"{name} {version}" for name, version in sorted(summary.get("versions", {}).items()))
        sentence = (
            f"Trained on {summary.get('world_size', 1)} process(es) in {summary.get('precision', 'fp32')}; {versions}."
        )
        if sentence not in sentences:
            sentences.append(sentence)
    return " ".join(sentences)


def describe_results(results: Iterable[dict]) -> tuple[list[dict], list[str]]:
    """The rows of the evaluation table and the notes on judges and missing media."""
    rows, notes = [], []
    for result in results:
        for metric, value in result["metrics"].items():
            if isinstance(value, int | float):
                shared = {key: result[key] for key in ("name", "num_examples", "num_expected")}
                rows.append({**shared, "metric": metric, "value": value})
        if result.get("judge"):
            judge = result["judge"]
            notes.append(
                f"{result['name']}: judged by {judge['model']} ({judge['version']}), prompt {judge['prompt_sha256'][:12]}."
            )
        if result.get("missing"):
            notes.append(f"{result['name']}: {len(result['missing'])} videos were missing and are not in the value.")
    return rows, notes


def model_index(results: Iterable[dict]) -> list[EvalResult]:
    """The results as Hub metadata, one entry per metric; the protocol stays part of the name."""
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
        for metric, value in result["metrics"].items()
        if isinstance(value, int | float)
    ]


def describe_time(config: dict) -> tuple[str, str]:
    """How the model writes times, and what it resolves."""
    bins = config.get("num_time_bins", 100)
    if config.get("time_unit", "relative") == "seconds":
        return "seconds", "one second"
    digits = len(str(bins - 1))
    return f"{digits} digits, 0 to {bins - 1} of the video's length", f"1/{bins} of the video's length"


def git_commit() -> str:
    """The commit of this checkout, or "unknown" outside of one."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=TEMPLATE.parent, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def write_model_card(
    checkpoint: Path,
    *,
    repo_id: str,
    results: list[dict],
    summaries: list[dict],
    base_model: str | None = None,
    datasets: list[str] | None = None,
) -> str:
    """The text of the card: metadata in YAML, then the filled template.

    Args:
        checkpoint (`Path`): a merged checkpoint folder.
        repo_id (`str`): the Hub id that the code sample loads.
        results (`list[dict]`): contents of `results.json` files of `eval.run`.
        summaries (`list[dict]`): contents of `training_summary.json` files of `train/sft.py`, in order.

    Raises:
        ValueError: no configuration or weights, or a weight that belongs to no part of the model.
    """
    config = read_json(checkpoint / "config.json")
    counts, dtypes = count_parameters(checkpoint)
    if not dtypes:
        raise ValueError(f"{checkpoint} holds no safetensors weights")
    rows, notes = describe_results(results)
    written_times, resolution = describe_time(config)
    descends_from_vicuna = base_model is not None and "vicuna" in base_model.lower()
    metadata = ModelCardData(
        base_model=base_model,
        datasets=datasets,
        eval_results=model_index(results) or None,
        language="en",
        library_name="transformers",
        license="llama2" if descends_from_vicuna else "other",
        model_name=repo_id.split("/")[-1],
        pipeline_tag="video-text-to-text",
        tags=["audio-visual", "temporal-grounding", "dense-video-captioning", "custom_code"],
    )
    total = sum(counts.values())
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        model_name=repo_id.split("/")[-1],
        git_commit=git_commit(),
        code_sample=CODE_SAMPLE.format(repo_id=repo_id),
        time_description=written_times,
        time_resolution=resolution,
        parts=describe_parts(config, counts),
        num_av_tokens=config["num_av_tokens"],
        audio_rate=config["audio_interleaving_rate"],
        num_audio=round(config["num_av_tokens"] * config["audio_interleaving_rate"]),
        interleaving=config["interleaving"],
        num_bytes=sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")),
        dtype=", ".join(sorted(dtypes)),
        stages=describe_stages(summaries),
        environment=describe_environment(summaries),
        results=rows,
        result_notes=notes,
        not_run=[task for task in EXPECTED_TASKS if task not in {result["task"] for result in results}],
        scale_note=f"It has {total:,} parameters" + ("." if total > 1e9 else ": a demonstration, not a useful model."),
        licence_note=VICUNA_LICENCE if descends_from_vicuna else OTHER_LICENCE,
    )
    return str(card)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="the merged checkpoint folder")
    parser.add_argument("--repo-id", default="user/avicuna", help="the Hub id that the code sample loads")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="results.json files of eval.run")
    parser.add_argument("--training", type=Path, nargs="*", default=[], help="training_summary.json files, in order")
    parser.add_argument("--base-model", help="Hub id of the language model that the weights descend from")
    parser.add_argument("--datasets", nargs="*", help="Hub ids of the training data")
    parser.add_argument("--output", type=Path, required=True, help="the card to write")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    card = write_model_card(
        options.model,
        repo_id=options.repo_id,
        results=[read_json(path) for path in options.results],
        summaries=[read_json(path) for path in options.training],
        base_model=options.base_model,
        datasets=options.datasets,
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(card, encoding="utf-8")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
