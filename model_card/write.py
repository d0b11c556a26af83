"""Write the model card of a checkpoint, or the card of a built data set, from files alone.

    python -m model_card.write --model outputs/demo/stage4 --repo-id user/avicuna --results outputs/demo/eval/results.json
    python -m model_card.write --dataset outputs/pu_valor --repo-id user/pu_valor

No number is typed by hand: what has no file shows as "not run". The training log is read from the `training_summary.json`
of the checkpoint and of those it descends from. The texts of the data sets' cards live where the data are built.
"""

import argparse
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from dataset_builders import a5_222k_release
from dataset_builders import dataset_card as pu_valor_card
from dataset_builders.provenance import git_commit

from .facts import (
    check_results,
    count_parameters,
    describe_environment,
    describe_parts,
    describe_results,
    describe_stages,
    describe_time,
    has_both_towers,
    model_index,
    read_json,
    read_training_history,
)


TEMPLATE = Path(__file__).with_name("model_card_template.md")
ADAPTER_TEMPLATE = Path(__file__).with_name("adapter_card_template.md")
CARD_FILE = "README.md"
# The evaluations that a complete release has; a task without a result file is listed as "not run".
EXPECTED_TASKS = ("unav100", "avsd", "music_avqa", "msvd_qa", "msrvtt_qa", "activitynet_qa")
VICUNA_LICENCE = "The language model descends from Vicuna v1.5 and so from Llama 2: the weights fall under the Llama 2 Community License."
OTHER_LICENCE = "The weights follow the licences of the models that they descend from."
HUB_IMPORT = "from huggingface_hub import hf_hub_download\n"
FILE_SAMPLE = """import av
from huggingface_hub import hf_hub_download
from transformers import AutoModelForMultimodalLM, AutoProcessor

model = AutoModelForMultimodalLM.from_pretrained("{repo_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)

video = hf_hub_download("{repo_id}", "example.mp4")  # or a file of your own
messages = [{{"role": "user", "content": [
    {{"type": "video", "path": video}},
    {{"type": "text", "text": "What happens in the video, and when?"}},
]}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
generated = model.generate(**inputs, max_new_tokens=128)
answer = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
with av.open(video) as file:
    seconds = file.duration / av.time_base
print(answer, processor.post_process_events([answer], [seconds])[0], sep="\\n")"""
FEATURE_SAMPLE = """import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

model = AutoModelForMultimodalLM.from_pretrained("{repo_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)

# what the two towers say about one video: a row per frame, a row per 10-s window (here noise, for the shapes' sake)
features = {{
    "video_features": torch.randn({num_video}, {vision_size}),
    "audio_features": torch.randn({num_audio}, {audio_size}),
}}
messages = [{{"role": "user", "content": [
    {{"type": "video", **features}},
    {{"type": "text", "text": "What happens in the video, and when?"}},
]}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
generated = model.generate(**inputs, max_new_tokens=128)
answer = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
print(answer, processor.post_process_events([answer], [60.0])[0], sep="\\n")  # 60.0: the video's length in seconds"""

ADAPTER_SAMPLE = """from peft import PeftModel
from transformers import AutoModelForMultimodalLM

base = AutoModelForMultimodalLM.from_pretrained("{base_model}", trust_remote_code=True)
model = PeftModel.from_pretrained(base, "{repo_id}")"""


def code_sample(config: dict, *, repo_id: str) -> str:
    """Python that loads the release and asks it, from a file where it has both towers, from features otherwise."""
    if has_both_towers(config):
        sample = FILE_SAMPLE.format(repo_id=repo_id)
        if not Path(repo_id).is_dir():
            return sample
        # a card for a local folder: no Hub to download from
        download = f'video = hf_hub_download("{repo_id}", "example.mp4")'
        return sample.replace(HUB_IMPORT, "").replace(download, 'video = "example.mp4"')
    num_audio = count_audio_tokens(config)
    return FEATURE_SAMPLE.format(
        repo_id=repo_id,
        num_video=config["num_av_tokens"] - num_audio,
        num_audio=num_audio,
        vision_size=config["vision_feature_size"],
        audio_size=config["audio_feature_size"],
    )


def count_audio_tokens(config: dict) -> int:
    return round(config["num_av_tokens"] * config["audio_interleaving_rate"])


def is_vicuna(base_model: str | None) -> bool:
    return base_model is not None and "vicuna" in base_model.lower()


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
        results (`list[dict]`): contents of `results.json` and `results_judge.json` files of `eval.run` and `eval.judge`.
        summaries (`list[dict]`): contents of `training_summary.json` files of `train/sft.py`, in order.

    Raises:
        ValueError: no configuration or weights, a weight that belongs to no part of the model, or a result of another
            model.
    """
    config = read_json(checkpoint / "config.json")
    counts, dtypes = count_parameters(checkpoint)
    if not dtypes:
        raise ValueError(f"{checkpoint} holds no safetensors weights")
    check_results(checkpoint, results, repo_id=repo_id)
    rows, notes = describe_results(results)
    written_times, resolution = describe_time(config)
    metadata = ModelCardData(
        base_model=base_model,
        datasets=datasets,
        eval_results=model_index(results) or None,
        language="en",
        library_name="transformers",
        license="llama2" if is_vicuna(base_model) else "other",
        model_name=repo_id.split("/")[-1],
        pipeline_tag="video-text-to-text",
        tags=["audio-visual", "temporal-grounding", "dense-video-captioning", "custom_code"],
    )
    total = sum(counts.values())
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        model_name=repo_id.split("/")[-1],
        git_commit=git_commit() or "unknown",
        code_sample=code_sample(config, repo_id=repo_id),
        time_description=written_times,
        time_resolution=resolution,
        parts=describe_parts(config, counts),
        num_av_tokens=config["num_av_tokens"],
        audio_rate=config["audio_interleaving_rate"],
        num_audio=count_audio_tokens(config),
        interleaving=config["interleaving"],
        num_bytes=sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")),
        dtype=", ".join(sorted(dtypes)),
        stages=describe_stages(summaries),
        environment=describe_environment(summaries),
        results=rows,
        result_notes=notes,
        not_run=[task for task in EXPECTED_TASKS if task not in {result["task"] for result in results}],
        scale_note=f"It has {total:,} parameters" + ("." if total > 1e9 else ": a demonstration, not a useful model."),
        licence_note=VICUNA_LICENCE if is_vicuna(base_model) else OTHER_LICENCE,
    )
    return str(card)


def write_adapter_card(adapter: Path, *, repo_id: str, base_model: str, summaries: list[dict]) -> str:
    """The text of the card of a LoRA folder that `train/sft.py` left; `base_model` is the Hub id of what it adapts."""
    config = read_json(adapter / "adapter_config.json")
    metadata = ModelCardData(
        base_model=base_model,
        base_model_relation="adapter",
        language="en",
        library_name="peft",
        license="llama2" if is_vicuna(base_model) else "other",
        tags=["audio-visual", "temporal-grounding", "lora"],
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(ADAPTER_TEMPLATE),
        model_name=repo_id.split("/")[-1],
        base_model=base_model,
        code_sample=ADAPTER_SAMPLE.format(base_model=base_model, repo_id=repo_id),
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config["lora_dropout"],
        saved_modules=", ".join(f"`{name}`" for name in config.get("modules_to_save") or []),
        stages=describe_stages(summaries),
        environment=describe_environment(summaries),
        licence_note=VICUNA_LICENCE if is_vicuna(base_model) else OTHER_LICENCE,
    )
    return str(card)


def dataset_card(folder: Path, *, name: str) -> str:
    """The text of the card of a built PU-VALOR or A5-222K folder, from its report.

    Args:
        folder (`Path`): what `dataset_builders.build` or `dataset_builders.a5_222k_release` wrote.
        name (`str`): what `load_dataset` will be called with.

    Raises:
        ValueError: no report, or that of an unknown builder.
    """
    report = read_json(folder / "report.json")
    if "splits" in report.get("settings", {}):
        return pu_valor_card.card_text(report, name=name)
    if "mix" in report.get("settings", {}):
        return a5_222k_release.card_text(report, name=name)
    raise ValueError(f"{folder / 'report.json'} is the report of neither PU-VALOR nor A5-222K")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model_card.write", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="the merged checkpoint folder")
    what.add_argument("--dataset", type=Path, help="a built PU-VALOR or A5-222K folder")
    parser.add_argument("--repo-id", help="the Hub id that the card's code loads; default: the folder")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="result files of eval.run and eval.judge")
    parser.add_argument(
        "--training",
        type=Path,
        nargs="*",
        help="training_summary.json files, in order; default: the checkpoint's own chain",
    )
    parser.add_argument("--base-model", help="Hub id of the language model that the weights descend from")
    parser.add_argument("--datasets", nargs="*", help="Hub ids of the training data")
    parser.add_argument("--output", type=Path, help="the card to write; default: README.md of the folder")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    folder = options.model or options.dataset
    if options.dataset is not None:
        card = dataset_card(folder, name=options.repo_id or str(folder))
    else:
        summaries = options.training
        card = write_model_card(
            folder,
            repo_id=options.repo_id or str(folder),
            results=[read_json(path) for path in options.results],
            summaries=read_training_history(folder) if summaries is None else [read_json(path) for path in summaries],
            base_model=options.base_model,
            datasets=options.datasets,
        )
    output = options.output or folder / CARD_FILE
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(card, encoding="utf-8")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
