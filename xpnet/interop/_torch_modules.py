"""Modules of PyTorch for layers that `torch.nn` lacks; imported only where PyTorch is."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Sequential):
    """`y = x + f(x)`, where `f` is the modules one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, F) -> (N, F)`."""
        y = x
        for module in self:
            y = module(y)
        return x + y
