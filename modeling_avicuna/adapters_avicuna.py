"""The trainable adapter of one modality: maps each feature row of a tower to one token embedding."""

import torch
from torch import nn
from transformers.activations import ACT2FN


class AVicunaMLPAdapter(nn.Module):
    """The adapter of the paper's poster: linear, activation, linear."""

    def __init__(self, in_features: int, out_features: int, hidden_act: str):
        super().__init__()
        self.linear_1 = nn.Linear(in_features, out_features)
        self.act = ACT2FN[hidden_act]
        self.linear_2 = nn.Linear(out_features, out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(features)))


def build_adapter(in_features: int, out_features: int, hidden_act: str | None) -> nn.Module:
    """One linear layer (published) where `hidden_act` is None, else a two-layer perceptron."""
    if hidden_act is None:
        return nn.Linear(in_features, out_features)
    return AVicunaMLPAdapter(in_features, out_features, hidden_act)
