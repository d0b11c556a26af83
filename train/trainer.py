"""TRL's `SFTTrainer` with the optimizer of `optimizer.py`, time accuracy in evaluations, and stopping criteria."""

from collections.abc import Callable
from typing import Any

import torch
import trl
import trl.trainer.utils
from accelerate.logging import get_logger
from torch import nn
from transformers import PreTrainedConfig, TrainerCallback, TrainerControl, TrainerState
from transformers.integrations.liger import apply_liger_kernel
from transformers.trainer_pt_utils import LabelSmoother
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import is_liger_kernel_available
from trl import SFTTrainer

from train.arguments import AVicunaTrainingArguments, read_criterion
from train.collator import IGNORED
from train.optimizer import regroup
from train.time_accuracy import TimeAccuracy


logger = get_logger(__name__)


class AVicunaTrainer(SFTTrainer):
    """Reads `use_muon`, `adapter_learning_rate` and `stop_when` of `AVicunaTrainingArguments`.

    Evaluations also report the share of correctly predicted digits of times: `eval_start_tens_accuracy`,
    `eval_start_ones_accuracy`, `eval_end_tens_accuracy` and `eval_end_ones_accuracy`. If the loss is not finite,
    FloatingPointError is raised before anything is saved.
    """

    optimizer: torch.optim.Optimizer | None
    label_smoother: LabelSmoother | None

    def __init__(self, *args: Any, **kwargs: Any):
        score_labelled_positions()
        super().__init__(*args, **kwargs)
        if self.args.use_liger_kernel:
            apply_liger_to_language_model(self.model, self.args.liger_kernel_config)
        self.time_accuracy = TimeAccuracy(self.processing_class.tokenizer)
        self.num_unsupervised = torch.zeros((), dtype=torch.long, device=self.args.device)
        self.is_finite = torch.ones((), dtype=torch.bool, device=self.args.device)
        self.model.register_forward_hook(self.count, with_kwargs=True)
        self.add_callback(StopAtDivergence(self))
        if self.args.stop_when:
            self.add_callback(StopWhen(self.args.stop_when))
        if self.label_smoother is not None:
            self.label_smoother = UnmaskedLabelSmoother(self.args.label_smoothing_factor, self.model.config)

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

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.is_finite &= torch.isfinite(loss)  # not copied to the CPU until StopAtDivergence reads it
        return loss

    def count(self, model: nn.Module, args: tuple, kwargs: dict, outputs: Any):
        """Forward hook: counts samples without a label in training, and correct digits in TRL's evaluation."""
        labels = kwargs.get("labels")
        if labels is None or not kwargs.get("fused_lm_head"):
            return
        if model.training:
            self.num_unsupervised += count_unsupervised(labels, kwargs.get("cu_seq_lens_q"))
        else:
            self.time_accuracy.add(labels[:, 1:], outputs.is_top1)  # TRL scores all positions but the first

    def total_unsupervised(self) -> int:
        """Number of samples without a supervised token, over all processes; call it on every process."""
        return int(self.accelerator.reduce(self.num_unsupervised))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not self.model.training:  # the condition that TRL uses for the log of an evaluation
            counts = self.accelerator.reduce(self.time_accuracy.counts.to(self.accelerator.device))
            logs.update({f"eval_{name}": value for name, value in self.time_accuracy.shares(counts).items()})
            self.time_accuracy.reset()
        super().log(logs, start_time)


def apply_liger_to_language_model(model: nn.Module, settings: dict) -> None:
    """Liger's kernels in the language model: transformers chooses them by the type of the whole model, and has none.

    Args:
        model: a model of this project, or its PEFT wrapper.
        settings: which kernels are applied, as `liger_kernel_config`.

    Raises:
        ValueError: Liger has no kernels for language models of this type.
        ImportError: the package liger-kernel is not installed.
    """
    language_model = unwrap_peft_model(model).model.language_model
    kind = language_model.config.model_type
    if is_liger_kernel_available():
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

        if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
            raise ValueError(f"use_liger_kernel: Liger has no kernels for language models of type {kind!r}")
    apply_liger_kernel(language_model, settings)


def count_unsupervised(labels: torch.Tensor, boundaries: torch.Tensor | None) -> torch.Tensor:
    """Number of samples of a batch without a label, on the device of the labels: reading it there would wait for it.

    Args:
        labels (`torch.Tensor` of shape `(batch_size, length)`): -100 for tokens that are not supervised.
        boundaries (`torch.Tensor` of shape `(num_samples + 1,)`, *optional*): starts of the samples if flattened.
    """
    is_supervised = labels != IGNORED
    if boundaries is None:
        return (~is_supervised.any(dim=1)).sum()
    counts = nn.functional.pad(is_supervised[0].cumsum(0), (1, 0))  # [length + 1]
    return (counts[boundaries.long()].diff() == 0).sum()


class UnmaskedLabelSmoother(LabelSmoother):
    """Label smoothing without placeholders and other masked tokens, whose logits are the smallest number of the data
    type: a mean over them would overflow.

    Args:
        epsilon: share of the probability that is distributed over all tokens.
        config: of the model, for the ids of the masked tokens.
    """

    def __init__(self, epsilon: float, config: PreTrainedConfig):
        super().__init__(epsilon=epsilon)
        self.masked = set(config.masked_token_ids)

    def __call__(
        self, model_output: Any, labels: torch.Tensor, shift_labels: bool = False, **kwargs: Any
    ) -> torch.Tensor:
        logits = model_output["logits"]
        kept = torch.tensor([i for i in range(logits.shape[-1]) if i not in self.masked], device=logits.device)
        new_ids = torch.full((logits.shape[-1],), IGNORED, device=logits.device)
        new_ids[kept] = torch.arange(len(kept), device=logits.device)
        labels = torch.where(labels == IGNORED, IGNORED, new_ids[labels.clamp(min=0)])
        return super().__call__({"logits": logits[..., kept]}, labels, shift_labels=shift_labels, **kwargs)


class StopAtDivergence(TrainerCallback):
    """Raises FloatingPointError if a loss was not finite: before each log and each checkpoint, and at the end."""

    def __init__(self, trainer: AVicunaTrainer):
        self.trainer = trainer

    def check(self, state: TrainerState):
        if not self.trainer.is_finite:
            raise FloatingPointError(
                f"the loss was not finite (NaN or infinite) at or before step {state.global_step}: the training "
                "diverged and nothing is saved. A lower learning_rate, or bf16 in place of fp16, often helps"
            )

    def on_step_end(
        self, args: AVicunaTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_log or control.should_save or control.should_evaluate:
            self.check(state)

    def on_epoch_end(
        self, args: AVicunaTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.check(state)

    def on_train_end(
        self, args: AVicunaTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.check(state)


def score_labelled_positions():
    """Makes TRL's fused head score only the positions with a label on a CPU, as it does on a GPU.

    On other devices TRL scores every position and masks the result. The loss is the same; a step of the sandbox takes
    a third less time. TRL has no option for this, so a private function of it is replaced.

    Raises:
        RuntimeError: this version of TRL does not have the function.
    """
    on_gpu = getattr(trl.trainer.utils, "_use_triton", None)
    if on_gpu is None:
        raise RuntimeError(
            f"trl {trl.__version__} has no trl.trainer.utils._use_triton, which train/trainer.py replaces so that a "
            "CPU scores only the labels: install trl 1.16, for which this was written"
        )
    if getattr(on_gpu, "__module__", None) != __name__:  # not replaced yet
        trl.trainer.utils._use_triton = lambda device: device.type == "cpu" or on_gpu(device)


class StopWhen(TrainerCallback):
    """Stops the training after the first evaluation that meets all criteria, in the form of `read_criterion`."""

    def __init__(self, criteria: list[str]):
        self.criteria: list[tuple[str, Callable[[float, float], bool], float]] = list(map(read_criterion, criteria))
        self.is_met = False

    def on_evaluate(
        self,
        args: AVicunaTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        metrics: dict,
        **kwargs: Any,
    ) -> None:
        for name, _, _ in self.criteria:
            if f"eval_{name}" not in metrics:
                known = sorted(key.removeprefix("eval_") for key in metrics if key.startswith("eval_"))
                raise ValueError(f"stop_when: no metric {name!r} in this evaluation; it has {known}")
        self.is_met = all(compare(metrics[f"eval_{name}"], value) for name, compare, value in self.criteria)
        control.should_training_stop |= self.is_met

    def on_train_end(
        self, args: AVicunaTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.is_met:
            logger.info("stop_when is met at step %d", state.global_step, main_process_only=True)
        else:
            logger.warning("stop_when was not met in %d steps: %s", state.global_step, args.stop_when)
