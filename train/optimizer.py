"""The optimizer of a stage: AdamW, or Muon for matrices, with a separate learning rate for the adapters.

Trainer creates the optimizer from `optim`; this module regroups its parameters before the first step. Trainer's
scheduler scales the learning rate of each group.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

from train.trainable import is_linear


ADAPTERS = ("vision_adapter", "audio_adapter")
MAX_ELEMENTS = 2**22  # of the matrices that are orthogonalised at once


class BatchedMuon(torch.optim.Muon):
    """`torch.optim.Muon` that orthogonalises matrices of one shape at once. The results are equal.

    A product of two small matrices takes less time than its call: for the language model of the sandbox (64 by 64) the
    orthogonalisation takes 6 ms in place of 15.
    """

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        assert closure is None
        for group in self.param_groups:
            parameters: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameters.setdefault(parameter.shape, []).append(parameter)
            for shape, alike in parameters.items():
                size = max(1, MAX_ELEMENTS // shape.numel())
                for first in range(0, len(alike), size):
                    self.update(alike[first : first + size], group)

    def update(self, parameters: list[nn.Parameter], group: dict) -> None:
        """Updates parameters of one shape by the settings of their group."""
        momentum, directions = group["momentum"], []
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.grad)
            buffer = self.state[parameter]["momentum_buffer"]
            buffer.lerp_(parameter.grad, 1 - momentum)
            directions.append(parameter.grad.lerp(buffer, momentum))
        scale = 0.2 * math.sqrt(max(parameters[0].shape))  # "match_rms_adamw"
        orthogonal = orthogonalise(
            torch.stack(directions),
            coefficients=group["ns_coefficients"],
            num_steps=group["ns_steps"],
            eps=group["eps"],
        )
        for parameter, direction in zip(parameters, orthogonal):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(direction, alpha=-group["lr"] * scale)


def orthogonalise(
    matrices: torch.Tensor, *, coefficients: tuple[float, float, float], num_steps: int, eps: float
) -> torch.Tensor:
    """The Newton-Schulz iteration of Muon in bfloat16, for matrices of shape `(num, rows, columns)`."""
    a, b, c = coefficients
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if is_tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    for _ in range(num_steps):
        gram = x @ x.mT  # [num, rows, rows]
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for some parameter groups and AdamW for the others, as one optimizer with one state dictionary.

    The Muon update has the RMS of an AdamW update (`match_rms_adamw`, arXiv:2502.16982): both share a learning rate.

    Args:
        matrix_groups: parameter groups of matrices, for Muon; `lr` and `weight_decay` are read from each.
        adamw: the optimizer of all other parameters.
    """

    def __init__(self, matrix_groups: list[dict], adamw: torch.optim.AdamW):
        names = ("params", "lr", "weight_decay")
        groups = [{name: group[name] for name in names} for group in matrix_groups]
        self.muon = BatchedMuon(groups, adjust_lr_fn="match_rms_adamw")
        self.adamw = adamw
        self.num_matrix_groups = len(groups)
        super().__init__([*self.muon.param_groups, *adamw.param_groups], defaults={})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> torch.Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # load_state_dict replaces param_groups and state, so they are assigned again before each step
        self.muon.param_groups = self.param_groups[: self.num_matrix_groups]
        self.adamw.param_groups = self.param_groups[self.num_matrix_groups :]
        self.muon.state = self.adamw.state = self.state
        self.muon.step()
        self.adamw.step()
        return loss


def regroup(
    optimizer: torch.optim.Optimizer, model: nn.Module, *, use_muon: bool, adapter_learning_rate: float | None
) -> torch.optim.Optimizer:
    """Applies `use_muon` and `adapter_learning_rate` to a new optimizer: returns it with other parameter groups, or,
    with `use_muon`, an optimizer that contains it."""
    if adapter_learning_rate is not None:
        groups = split_groups(optimizer.param_groups, adapter_parameters(model))
        for group in groups[True]:
            group["lr"] = adapter_learning_rate
        optimizer.param_groups = groups[False] + groups[True]
    if use_muon:
        groups = split_groups(optimizer.param_groups, matrices(model))
        optimizer.param_groups = groups[False]
        optimizer = MuonWithAdamW(groups[True], optimizer)
    return optimizer


def split_groups(groups: list[dict], chosen: set[nn.Parameter]) -> dict[bool, list[dict]]:
    """Optimizer groups split into those of parameters in `chosen` (key True) and of all others (key False)."""
    split: dict[bool, list[dict]] = {True: [], False: []}
    for group in groups:
        for is_chosen, part in split.items():
            if parameters := [p for p in group["params"] if (p in chosen) == is_chosen]:
                part.append({**group, "params": parameters})
    return split


def adapter_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of both adapters, including adapters wrapped by PEFT."""
    return {p for name, p in model.named_parameters() if not set(ADAPTERS).isdisjoint(name.split("."))}


def matrices(model: nn.Module) -> set[nn.Parameter]:
    """The weights that Muon trains: all linear layers, including LoRA and adapters, except the output head."""
    head = model.get_output_embeddings().weight
    return {m.weight for m in model.modules() if is_linear(m) and m.weight is not head}
