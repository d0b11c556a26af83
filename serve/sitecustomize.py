"""Declares the operators of torchvision that its wheel for GPUs cannot load beside a torch for processors.

`make serve-env` copies this file into the environment, where Python reads it at each start. No operator is called.
"""

import torch


library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
