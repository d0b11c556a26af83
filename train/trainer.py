"""TRL's `SFTTrainer` with the recipe's optimizer, the accuracy of times in evaluations, and an end by a criterion.

Used by `train/sft.py`. The loss, the loop, checkpoints and distributed training are TRL's and Trainer's.
"""

import torch
from accelerate.logging import get_logger
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl import SFTTrainer

from train.arguments import AVicunaTrainingArguments, read_criterion
from train.optimizer import regroup
from train.time_accuracy import TimeAccuracy


logger = get_logger(__name__)


class AVicunaTrainer(SFTTrainer):
    """Reads `use_muon`, `adapter_learning_rate` and `stop_when` of `AVicunaTrainingArguments`.

    Evaluations report, besides TRL's values, the share of correctly predicted digits of times: `eval_start_tens_accuracy`,
    `eval_start_ones_accuracy`, `eval_end_tens_accuracy` and `eval_end_ones_accuracy`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.time_accuracy = TimeAccuracy(self.processing_class.tokenizer)
        self.model.register_forward_hook(self.count_times, with_kwargs=True)
        if self.args.stop_when:
            self.add_callback(StopWhen(self.args.stop_when))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            self.optimizer = regroup(
                optimizer,
                self.model if model is None else model,
                use_muon=self.args.use_muon,
                adapter_learning_rate=self.args.adapter_learning_rate,
            )
        return self.optimizer

    def count_times(self, model: nn.Module, args: tuple, kwargs: dict, outputs):
        """Forward hook: TRL's evaluation computes `is_top1` for the labels of all positions but the first."""
        if not model.training and kwargs.get("fused_lm_head"):
            self.time_accuracy.add(kwargs["labels"][:, 1:], outputs.is_top1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not self.model.training:  # TRL's own way to tell the log of an evaluation
            counts = self.accelerator.reduce(self.time_accuracy.counts.to(self.accelerator.device))
            logs.update({f"eval_{name}": value for name, value in self.time_accuracy.shares(counts).items()})
            self.time_accuracy.reset()
        super().log(logs, start_time)


class StopWhen(TrainerCallback):
    """Ends the training after the first evaluation that meets all criteria.

    Args:
        criteria: "METRIC >= NUMBER" or "METRIC <= NUMBER"; the name of an evaluation metric, with or without "eval_".
    """

    def __init__(self, criteria: list[str]):
        self.criteria = [read_criterion(text) for text in criteria]
        self.is_met = False

    def on_evaluate(
        self, args: AVicunaTrainingArguments, state: TrainerState, control: TrainerControl, *, metrics: dict, **kwargs
    ):
        for name, _, _ in self.criteria:
            if f"eval_{name}" not in metrics:
                known = sorted(key.removeprefix("eval_") for key in metrics if key.startswith("eval_"))
                raise ValueError(f"stop_when: no metric {name!r} in this evaluation; it has {known}")
        self.is_met = all(compare(metrics[f"eval_{name}"], value) for name, compare, value in self.criteria)
        control.should_training_stop |= self.is_met

    def on_train_end(self, args: AVicunaTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.is_met:
            logger.info("stop_when is met at step %d", state.global_step, main_process_only=True)
        else:
            logger.warning("stop_when was not met in %d steps: %s", state.global_step, args.stop_when)
