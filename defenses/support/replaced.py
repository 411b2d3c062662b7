"""A model with other tensors in the place of its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call


class Replaced(nn.Module):
    """Computes as the module would with other parameters or buffers, by name; what a pass writes into buffers goes to these.

    Args:
        module: which stays as it is.
        tensors: in the place of its own.
    """

    def __init__(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.module, self._tensors = module, dict(tensors)

    def forward(self, images: Tensor) -> Tensor:
        """Of images [B, C, H, W] the logits [B, classes]."""
        logits: Tensor = functional_call(self.module, self._tensors, (images,))
        return logits
