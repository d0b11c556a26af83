"""Trains one stage of AVicuna: arguments, processor, rows, model, trainer, save.

    accelerate launch train/sft.py --config train/recipes/stage3_time_event.yaml --model_name_or_path outputs/stage2 \
        --output_dir outputs/stage3 --features_dir features

Every field of the recipe can be given on the command line, which wins. All four stages in order: `train/run_stages.py`.
"""

import sys
import time
from pathlib import Path

from accelerate.logging import get_logger
from transformers.integrations import is_deepspeed_zero3_enabled


if __name__ == "__main__":  # a script's own folder leads sys.path; the packages live one above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from modeling_avicuna import AVicunaConfig  # noqa: E402, F401  (importing registers the auto classes)
from train.arguments import parse_arguments  # noqa: E402
from train.checkpoint import (  # noqa: E402
    load_model,
    load_processor,
    resume_point,
    save_stage,
    start_deepspeed,
    whole_models,
)
from train.collator import AVicunaCollator  # noqa: E402
from train.media_rows import open_media, unused_media  # noqa: E402
from train.packed_attention import prepare_for_packing  # noqa: E402
from train.publishing import publish_stage  # noqa: E402
from train.summary import describe_start, write_summary  # noqa: E402
from train.trainable import count_parameters, lora_config, set_trainable  # noqa: E402
from train.trainer import AVicunaTrainer  # noqa: E402
from train.training_rows import load_rows  # noqa: E402


logger = get_logger(__name__)


def main(arguments: list[str] | None = None):
    recipe, stage, training = parse_arguments(arguments)
    # one push, of the finished and checked release, instead of the Trainer's
    push, training.push_to_hub = training.push_to_hub, False
    resume = resume_point(training.resume_from_checkpoint, training.output_dir)

    processor = load_processor(stage.model_name_or_path)
    start = describe_start(stage.model_name_or_path)
    media = open_media(stage.features_dir, media_dir=stage.media_dir, processor=processor)
    reading = {"media": media, "data_dir": stage.data_dir, "max_missing": stage.max_missing, "seed": training.seed}
    with whole_models(training):
        rows, counts = load_rows(stage.datasets, **reading)
        eval_rows, eval_counts = load_rows(stage.eval_datasets, **reading) if stage.eval_datasets else (None, None)

    start_deepspeed(training)
    model = load_model(stage.model_name_or_path, dtype=stage.dtype, attn_implementation=stage.attn_implementation)
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
    save_stage(trainer, stage=stage, processor=processor)
    if not trainer.is_world_process_zero():
        return
    counts |= {"eval": eval_counts} if eval_counts else {}
    write_summary(trainer, recipe=recipe, stage=stage, training=training, start=start, counts=counts, seconds=seconds)
    if push:
        publish_stage(training)


if __name__ == "__main__":
    main()
