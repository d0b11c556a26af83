"""The optimizer and learning rate of each parameter: Muon or AdamW, `learning_rate` or `adapter_learning_rate`."""

import pytest
import torch
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from tests.train_fixtures import run_stage, saved_weights, workshop  # noqa: F401
from train.arguments import parse_arguments


EVERYTHING = ["language_model", "vision_adapter", "audio_adapter"]
MATRICES = ("_proj.weight", "adapter.weight")


@pytest.fixture
def gradients(monkeypatch):
    """The clipped gradients of every step, by parameter name."""
    steps = []

    class Recorder(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, *, model, **kwargs):
            steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    return steps


def replay(start: torch.Tensor, gradients: list[torch.Tensor], *, learning_rates: list[float], is_matrix: bool):
    """One parameter updated by the optimizers of torch."""
    parameter = torch.nn.Parameter(start.clone())
    if is_matrix:
        optimizer = torch.optim.Muon([parameter], weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    else:
        optimizer = torch.optim.AdamW([parameter], weight_decay=0.0)
    for gradient, lr in zip(gradients, learning_rates, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = gradient
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("use_muon", [False, True])
@pytest.mark.parametrize("adapter_learning_rate", [None, 0.05])
def test_two_steps_update_each_parameter_by_its_rule(workshop, tmp_path, gradients, use_muon, adapter_learning_rate):  # noqa: F811
    options = {"use_muon": use_muon, "adapter_learning_rate": adapter_learning_rate, "learning_rate": 0.01}
    options |= {"lr_scheduler_type": "linear", "report_to": "recorder", "trainable": EVERYTHING}
    output = run_stage(workshop, "video", tmp_path, **options)
    before, after = saved_weights(workshop.checkpoint), saved_weights(output)
    assert len(gradients) == 2 and len(gradients[0]) > 20
    for name in gradients[0]:
        rate = adapter_learning_rate if adapter_learning_rate and "_adapter." in name else 0.01
        expected = replay(
            before[name],
            [step[name] for step in gradients],
            learning_rates=[rate, rate / 2],
            is_matrix=use_muon and name.endswith(MATRICES),
        )
        torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-6, msg=name)


def test_muon_trains_lora(workshop, tmp_path, gradients):  # noqa: F811
    output = run_stage(workshop, "video", tmp_path, use_peft=True, lora_r=4, use_muon=True, report_to="recorder")
    assert all("lora_" in name for name in gradients[0])
    lora = saved_weights(output / "adapter", "adapter_model.safetensors")
    name = next(name for name in lora if name.endswith("up_proj.lora_B.weight"))
    # B starts at zero; its first Muon step has singular values of about 0.2 * sqrt(rows) * learning_rate
    assert torch.linalg.svdvals(lora[name]).min() > 0.2 * 0.01


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--deepspeed", "ds_config.json"], "use_muon does not work with deepspeed"),
        (["--optim", "adafactor"], "got adafactor"),
    ],
)
def test_unsupported_combinations_with_muon_are_errors(line, words):
    base = ["--trainable", "language_model", "--bf16", "false", "--use_cpu", "true", "--output_dir", "/nowhere"]
    with pytest.raises(ValueError, match=words):
        parse_arguments([*base, "--use_muon", "true", *line])
