"""The optimizer of a stage: AdamW, or Muon for matrices, with a separate learning rate for the adapters.

Trainer creates the optimizer from `optim`; this module regroups its parameters before the first step. Trainer's
scheduler scales the learning rate of each group.
"""

from collections.abc import Callable

import torch
from torch import nn

from train.trainable import is_linear


ADAPTERS = ("vision_adapter", "audio_adapter")


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
        self.muon = torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw")
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
