"""Write the model card of a checkpoint, or the card of a built data set, from files alone.

    python -m model_card.write --model outputs/demo/stage4 --repo-id user/avicuna \
        --results outputs/demo/eval/results.json
    python -m model_card.write --dataset outputs/pu_valor --repo-id user/pu_valor

All numbers are read from files; missing results are shown as "not run". Training log, base models and licence come
from the records in the checkpoint folder (`lineage.py`).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from dataset_builders.atomic_files import write_text
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.release import a5_222k_card, pu_valor_card
from dataset_builders.release.card_facts import CARD_FILE, LICENCE_FILE, licences_of
from dataset_builders.release.citation import BIBTEX
from dataset_builders.release.provenance import git_commit, model_hash
from dataset_builders.sources.annotation_files import read_json, read_object
from modeling_avicuna.interleaving_avicuna import num_modality_tokens

from .code_samples import adapter_sample, model_sample
from .facts import (
    check_results,
    count_parameters,
    describe_environment,
    describe_parts,
    describe_results,
    describe_stages,
    describe_time,
    model_index,
)
from .lineage import LLAMA_2_NOTICE, NOTICE_FILE, Licence, Lineage, describe_licence, lineage_of, read_lineage


PROGRAM = "python -m model_card.write"
TEMPLATE = Path(__file__).with_name("model_card_template.md")
ADAPTER_TEMPLATE = Path(__file__).with_name("adapter_card_template.md")
RESULTS_FILE = "evaluation_results.json"  # the result files that a card shows, as they were written
WRITTEN_MARKS = ("generated_from_trainer", BIBTEX, "# Licences")  # of cards and licences that may be replaced
# The evaluations that a complete release has; a task without a result file is listed as "not run".
EXPECTED_TASKS = ("unav100", "avsd", "music_avqa", "msvd_qa", "msrvtt_qa", "activitynet_qa")


def write_model_card(
    checkpoint: Path,
    *,
    repo_id: str,
    results: list[dict],
    lineage: Lineage,
    base_models: list[str] | None = None,
    datasets: list[str] | None = None,
    license: str | None = None,
) -> dict[str, str]:
    """The card and its additional files, as texts by file name.

    Args:
        checkpoint: a merged checkpoint folder.
        repo_id: the Hub id that the code sample loads.
        results: contents of `results.json` and `results_judge.json` files.
        lineage: determines base models, data sets and licence unless they are given.

    Raises:
        ValueError: no weights, an unknown weight, or a result of another model.
    """
    config = read_object(checkpoint / "config.json")
    counts, dtypes = count_parameters(checkpoint)
    if not dtypes:
        raise ValueError(f"{checkpoint} holds no safetensors weights")
    check_results(checkpoint, results, repo_id=repo_id)
    rows, notes = describe_results(results)
    written_times, resolution = describe_time(config)
    base_models = base_models or lineage.base_models
    licence = describe_licence([*base_models, *lineage.names], license=license)
    metadata = ModelCardData(
        base_model=base_models or None,
        base_model_relation="finetune" if base_models else None,
        datasets=datasets or lineage.datasets or None,
        eval_results=model_index(results) or None,
        language="en",
        library_name="transformers",
        model_name=repo_id.split("/")[-1],
        pipeline_tag="video-text-to-text",
        tags=["audio-visual", "temporal-grounding", "dense-video-captioning", "custom_code"],
        **licence.metadata,
    )
    total = sum(counts.values())
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        model_name=repo_id.split("/")[-1],
        git_commit=git_commit() or "unknown",
        code_sample=model_sample(config, repo_id=repo_id),
        time_description=written_times,
        time_resolution=resolution,
        parts=describe_parts(config, counts, source_of=lineage.part),
        num_av_tokens=config["num_av_tokens"],
        audio_rate=config["audio_interleaving_rate"],
        num_audio=num_modality_tokens(config["num_av_tokens"], config["audio_interleaving_rate"])[1],
        interleaving=config["interleaving"],
        num_bytes=sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")),
        dtype=", ".join(sorted(dtypes)),
        model_hash=model_hash(str(checkpoint)),
        origin=lineage.describe_origin(),
        stages=describe_stages(lineage.stages),
        environment=describe_environment(lineage.stages),
        results=rows,
        result_notes=notes,
        not_run=[task for task in EXPECTED_TASKS if task not in {result["task"] for result in results}],
        scale_note=f"It has {total:,} parameters" + ("." if total > 1e9 else ": a demonstration, not a useful model."),
        licence_note=licence.note,
        citation=BIBTEX,
    )
    records = {RESULTS_FILE: json.dumps(results, indent=2, ensure_ascii=False) + "\n"} if results else {}
    return with_licence(str(card), licence) | records


def with_licence(card: str, licence: Licence) -> dict[str, str]:
    """The card, and the files that its licence requires."""
    files = {CARD_FILE: card}
    if licence.metadata["license"] == "other":
        files[LICENCE_FILE] = licences_of(card)
    if licence.is_llama_2:
        files[NOTICE_FILE] = LLAMA_2_NOTICE
    return files


def write_adapter_card(adapter: Path, *, repo_id: str, base_model: str, lineage: Lineage) -> dict[str, str]:
    """The same for a LoRA folder of `train/sft.py`; `base_model` is the Hub id of its base model."""
    config = read_object(adapter / "adapter_config.json")
    licence = describe_licence([base_model, *lineage.names])
    metadata = ModelCardData(
        base_model=base_model,
        base_model_relation="adapter",
        language="en",
        library_name="peft",
        tags=["audio-visual", "temporal-grounding", "lora"],
        **licence.metadata,
    )
    own = lineage.stages[-1:]  # earlier stages made the base model
    card = ModelCard.from_template(
        metadata,
        template_path=str(ADAPTER_TEMPLATE),
        model_name=repo_id.split("/")[-1],
        base_model=base_model,
        code_sample=adapter_sample(repo_id=repo_id, base_model=base_model),
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config["lora_dropout"],
        saved_modules=", ".join(f"`{name}`" for name in config.get("modules_to_save") or []),
        stages=describe_stages(own),
        environment=describe_environment(own),
        licence_note=licence.note,
    )
    return with_licence(str(card), licence)


def dataset_card(folder: Path, *, name: str) -> str:
    """The text of the card of a built PU-VALOR or A5-222K folder; `name` is the argument of `load_dataset` in it."""
    report = read_json(folder / "report.json")
    if "splits" in report.get("settings", {}):
        return pu_valor_card.card_text(report, name=name)
    if "mix" in report.get("settings", {}):
        return a5_222k_card.card_text(report, name=name)
    raise ValueError(f"{folder / 'report.json'} is the report of neither PU-VALOR nor A5-222K")


@dataclass
class WriteOptions:
    """Exactly one of `model` and `dataset` is given."""

    model: Path | None = field(default=None, metadata={"help": "The merged checkpoint folder."})
    dataset: Path | None = field(default=None, metadata={"help": "A built PU-VALOR or A5-222K folder."})
    repo_id: str | None = field(
        default=None, metadata={"help": "The Hub id that the code in the card loads. Default: the folder."}
    )
    results: list[Path] = field(
        default_factory=list, metadata={"help": "Result files of eval.run and eval.judge.", "nargs": "*"}
    )
    training: Path | None = field(
        default=None,
        metadata={"help": "training_summary.json of the last stage. Default: the one in the checkpoint folder."},
    )
    base_model: list[str] = field(
        default_factory=list, metadata={"help": "Hub ids of the base models. Default: as recorded."}
    )
    datasets: list[str] = field(
        default_factory=list, metadata={"help": "Hub ids of the training data. Default: as recorded."}
    )
    license: str | None = field(
        default=None, metadata={"help": "The Hub's name of a licence. Default: follows from the base models."}
    )
    output: Path | None = field(
        default=None, metadata={"help": "The card to write. Default: README.md of the folder."}
    )

    def __post_init__(self):
        if (self.model is None) == (self.dataset is None):
            raise ValueError("give one of --model and --dataset")


def check_replaced(paths: Iterable[Path]) -> None:
    """Raises ValueError for an existing card or licence that neither this module, nor a build, nor TRL has written."""
    for path in paths:
        is_checked = path.suffix == ".md" and path.exists()
        if is_checked and not any(
            mark in path.read_text(encoding="utf-8", errors="replace") for mark in WRITTEN_MARKS
        ):
            raise ValueError(f"{path} was not written by this command: move it, or give another --output")


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(WriteOptions, arguments, program=PROGRAM, description=__doc__.split("\n")[0])
    if options.dataset is not None:
        folder = options.dataset
        card = dataset_card(folder, name=options.repo_id or str(folder))
        files = {CARD_FILE: card, LICENCE_FILE: licences_of(card)}
    elif options.model is not None:
        folder, own = options.model, options.training
        files = write_model_card(
            folder,
            repo_id=options.repo_id or str(folder),
            results=[read_json(path) for path in options.results],
            lineage=read_lineage(folder) if own is None else lineage_of(read_json(own), where=str(own)),
            base_models=options.base_model,
            datasets=options.datasets,
            license=options.license,
        )
    output = options.output or folder / CARD_FILE
    paths = {output if name == CARD_FILE else output.with_name(name): text for name, text in files.items()}
    check_replaced(paths)
    output.parent.mkdir(parents=True, exist_ok=True)
    for path, text in paths.items():
        write_text(path, text)
        print(f"wrote {path}")


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
