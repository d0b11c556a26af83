"""Trains one stage of AVicuna: arguments, processor, rows, model, trainer, save.

    accelerate launch train/sft.py --config train/recipes/stage3_time_event.yaml --model outputs/stage2 \
        --output_dir outputs/stage3 --features_dir features

Every field of the recipe can be given on the command line, which takes precedence. `train/run_stages.py` runs all four
stages.
"""

import sys
import time
from pathlib import Path

from accelerate.logging import get_logger
from transformers.integrations import is_deepspeed_zero3_enabled


if __name__ == "__main__":  # Python puts the folder of a script in sys.path; the packages are one level higher
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dataset_builders.command_line import one_line_errors  # noqa: E402
from dataset_builders.pretrained import load_processor  # noqa: E402
from modeling_avicuna import AVicunaConfig  # noqa: E402, F401  (importing registers the auto classes)
from train.arguments import parse_arguments  # noqa: E402
from train.checkpoint import (  # noqa: E402
    check_output,
    load_model,
    merged_start,
    quantization_config,
    save_stage,
    start_deepspeed,
    whole_models,
)
from train.collator import AVicunaCollator  # noqa: E402
from train.media_rows import open_media, unused_media  # noqa: E402
from train.packed_attention import prepare_for_packing  # noqa: E402
from train.publishing import publish_stage  # noqa: E402
from train.resuming import resume_point  # noqa: E402
from train.summary import describe_start, write_summary  # noqa: E402
from train.trainable import count_parameters, lora_config, set_trainable  # noqa: E402
from train.trainer import AVicunaTrainer  # noqa: E402
from train.training_rows import load_stage_rows  # noqa: E402


logger = get_logger(__name__)


def main(arguments: list[str] | None = None):
    recipe, stage, training = parse_arguments(arguments)
    # the checked release is pushed at the end, not by Trainer
    push, training.push_to_hub = training.push_to_hub, False
    check_output(stage, training)
    resume = resume_point(training.resume_from_checkpoint, training.output_dir)

    base = merged_start(stage, training)
    processor = load_processor(base, revision=stage.model_revision)
    start = describe_start(str(stage.model_name_or_path), revision=stage.model_revision)
    media = open_media(
        stage.features_dir, media_dir=stage.media_dir, processor=processor, composition=stage.composition
    )
    with whole_models(training):
        rows, eval_rows, counts = load_stage_rows(stage, media=media, seed=training.seed)

    start_deepspeed(training)
    model = load_model(
        base,
        dtype=stage.dtype,
        attn_implementation=stage.attn_implementation,
        revision=stage.model_revision,
        quantization_config=quantization_config(stage),
    )
    media.check_towers(model)
    if stage.flatten:
        prepare_for_packing(model)
    set_trainable(model, stage.trainable)
    runs_towers_apart = is_deepspeed_zero3_enabled() and not stage.features_dir
    collator = AVicunaCollator(
        processor,
        media=media,
        chat_template=stage.chat_template,
        max_length=training.max_length,
        flatten=stage.flatten,
        unused_media=unused_media(model, processor=processor) if runs_towers_apart else None,
    )
    trainer = AVicunaTrainer(
        model,
        args=training,
        train_dataset=rows,
        eval_dataset=eval_rows,
        data_collator=collator,
        processing_class=processor,
        peft_config=lora_config(model, stage),
    )
    logger.info("trained / all parameters: %s", count_parameters(model), main_process_only=True)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    seconds = time.perf_counter() - started
    save_stage(trainer, stage=stage, base=base, processor=processor)
    counts["samples_without_labels"] = trainer.total_unsupervised()
    if not trainer.is_world_process_zero():
        return
    write_summary(trainer, recipe=recipe, stage=stage, training=training, start=start, counts=counts, seconds=seconds)
    if push:
        publish_stage(training)


if __name__ == "__main__":
    with one_line_errors("train/sft.py"):
        main()
