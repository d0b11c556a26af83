"""Numbers out of range are errors that name the option, of every builder and command with numeric options."""

import dataclasses
import math

import pytest

from dataset_builders.a5_222k import A5222KConfig
from dataset_builders.image_text import ImageTextConfig
from dataset_builders.image_text import read_rows as read_image_rows
from dataset_builders.input_settings import check_positive, check_range
from dataset_builders.instruction import InstructionConfig
from dataset_builders.pu_valor import PUValorConfig
from dataset_builders.sandbox.__main__ import SandboxOptions
from dataset_builders.sandbox.world import TimeLine
from dataset_builders.sources.record_report import RecordReport
from eval import events
from eval.judge import JudgeOptions
from eval.run import RunOptions
from train.arguments import parse_arguments
from train.extract_features import ExtractionOptions
from train.initialize import InitializeOptions


JUDGE = {"run": "r", "annotations": ["a"], "endpoint": "https://h", "judge_model": "m"}
RUN = {"task": "sandbox", "model": "m", "annotations": ["a"], "output": "o"}
MAKERS = {
    "pu_valor": lambda **values: PUValorConfig(captions_file="captions.json", **values),
    "a5_222k": lambda **values: A5222KConfig(captions_file="captions.json", **values).check(),
    "instruction": lambda **values: InstructionConfig(**values).check(),
    "image_text": lambda **values: list(read_image_rows(ImageTextConfig(**values), report=RecordReport())),
    "sandbox": lambda **values: SandboxOptions(output="o", **values),
    "time line": lambda **values: TimeLine(**values),
    "initialize": lambda **values: InitializeOptions(output="o", **values),
    "extract_features": lambda **values: ExtractionOptions(model="m", output="o", **values),
    "eval.run": lambda **values: RunOptions(**RUN, **values),
    "judge": lambda **values: JudgeOptions(**JUDGE, **values),
}
WRONG = {
    "pu_valor": [
        *({"min_clip_duration": value} for value in (-3, math.nan, math.inf)),
        *({"clip_duration": value} for value in (-1, 0, math.nan)),
        {"min_caption_words": -1},
        {"num_videos": 2.5},
        {"num_videos": True},
        {"seed": -1},
        {"render_fps": math.inf},
        *({"render_size": value} for value in ([0, 0], [-2, 4], [480.5, 360], [481, 360], [480], "480")),
        *({"clips_per_video": value} for value in ([2.5, 3], [3, 2], [0, 1], 3)),
        *({"scale_range": value} for value in ([0.5, math.inf], [math.nan, 1], ["1", "2"])),
        {"gap_seconds": [-1, 2]},
        {"duration_range": [0, math.inf]},
        *({"ambiguity_threshold": value} for value in (2, math.nan)),
        *({"coherence_threshold": value} for value in ("nan", 7, "x", [1])),
        *({"background_noise_snr_db": value} for value in (math.nan, math.inf, 1e9)),
    ],
    "a5_222k": [{"max_duration": -1}, {"max_duration": math.nan}, {"min_words": 1.5}, {"seed": -1}],
    "instruction": [{"absent_share": -0.1}, {"absent_share": 1.0}, {"max_turns": 0}, {"seed": -1}],
    "image_text": [{"max_turns": 1.5}, {"seed": -1}, {"max_missing": -1}],
    "sandbox": [{"seed": -1}, {"num_classes": 0}, {"num_clips": -1}],
    "time line": [{"event_seconds": (1.0, math.inf)}, {"overlap_share": math.nan}],
    "initialize": [{"window_seconds": 0.0}, {"stride_seconds": -1.0}, {"stride_seconds": math.nan}, {"seed": -1}],
    "extract_features": [{"media_per_part": 0}, {"num_workers": 0}, {"max_missing": "-1%"}],
    "eval.run": [{"window": math.nan}, {"window": -1.0}, {"window": math.inf}, {"max_new_tokens": 0}],
    "judge": [{"timeout": math.inf}, {"timeout": math.nan}, {"price_input": -1.0}],
}


@pytest.mark.parametrize(("maker", "values"), [(maker, values) for maker in WRONG for values in WRONG[maker]])
def test_a_number_out_of_range_is_an_error_that_names_it(maker, values):
    with pytest.raises(ValueError, match=next(iter(values))):
        MAKERS[maker](**values)


TRAINING_NUMBERS = [
    "--learning_rate -1",
    "--learning_rate nan",
    "--adapter_learning_rate inf",
    "--per_device_train_batch_size 0",
    "--per_device_eval_batch_size 0",
    "--gradient_accumulation_steps 0",
    "--effective_batch_size -1",
    "--num_train_epochs 0",
    "--weight_decay -1",
    "--warmup_steps -0.1",
    "--label_smoothing_factor 2",
    "--seed -1",
    "--lora_r 0",
    "--lora_dropout 1.5",
    "--max_missing -1",
]


@pytest.mark.parametrize("words", TRAINING_NUMBERS)
def test_a_number_of_a_training_out_of_range_is_an_error_that_names_it(words):
    with pytest.raises(ValueError, match=words.split()[0].removeprefix("--")):
        parse_arguments(["--use_peft", "--bf16", "false", "--output_dir", "/nowhere", *words.split()])


@pytest.mark.parametrize(
    "words", ["--num-resamples -1", "--seed -1", "--unit frames --fps 0", "--unit frames --fps nan"]
)
def test_a_number_of_eval_events_out_of_range_is_one_line(words, capsys):
    line = ["--task", "unav100", "--annotations", "a", "--predictions", "p", *words.split()]
    with pytest.raises(SystemExit, match="2"):
        events.parse(line)
    assert words.split()[-2] in capsys.readouterr().err


@dataclasses.dataclass
class Numbers:
    count: int | None = None
    share: float = 0.0


def test_none_and_limits_are_in_range():
    check_range(Numbers(), 1, "count")
    check_range(Numbers(count=3, share=1), 0, "count", "share", high=3)
    check_positive(Numbers(share=0.5), "count", "share")
