"""PRECODE: a variational bottleneck before the classifier."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses import checks
from defenses.base import Defense
from defenses.last_linear import last_linear, replace


class VariationalBottleneck(nn.Module):
    """Encode features to a Gaussian, sample from it, decode to features of the same size (Scheliga et al., WACV 2022, eq. 3).

    mu, s = encoder(h); sigma = softplus(s); z = mu + sigma * epsilon; output = decoder(z). It samples in evaluation as in
    training. ``epsilon`` is drawn from torch's global generator unless it is set.

    Args:
        features: size d of the features h.
        size: K, the size of z.

    Attributes:
        epsilon: None, or the noise [B, K] to use in the next forward passes instead of a fresh sample.
        code: None, or the codes z [B, K] to use in the next forward passes, as samples of whatever Gaussian is encoded: the noise
            is then the constant (z - mu) / sigma.
        divergence: the KL divergence to a standard normal in bits [B] of the last forward pass, None after it was read.
    """

    def __init__(self, features: int, size: int, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 2 * size, device=device, dtype=dtype)
        self.decoder = nn.Linear(size, features, device=device, dtype=dtype)
        self.size = size
        self.epsilon: Tensor | None = None
        self.code: Tensor | None = None
        self.divergence: Tensor | None = None

    def forward(self, h: Tensor) -> Tensor:
        """Features [B, ..., d] to features of the same shape."""
        mu, s = self.encoder(h).chunk(2, dim=-1)
        sigma = F.softplus(s)
        if self.code is not None:
            epsilon = ((self.code - mu) / sigma).detach()
        else:
            epsilon = torch.randn_like(mu) if self.epsilon is None else self.epsilon
        nats = 0.5 * (mu.square() + sigma.square() - 1) - sigma.log()
        self.divergence = nats.flatten(1).sum(1) / math.log(2)
        return self.decoder(mu + sigma * epsilon)

    def take_divergence(self) -> Tensor:
        """The divergence [B] of the last forward pass; the module forgets it, so that it keeps no graph alive."""
        if self.divergence is None:
            raise RuntimeError("the divergence is there once after each forward pass")
        divergence, self.divergence = self.divergence, None
        return divergence

    def __getstate__(self) -> dict[str, Any]:
        # A copy or pickle of the module must not carry the autograd graph of its last forward pass.
        return {**self.__dict__, "divergence": None}


@dataclass(frozen=True)
class PRECODE(Defense):
    """Put a variational bottleneck before the last linear layer and add beta * KL to the loss (Scheliga et al., WACV 2022).

    Any model that ends in a linear layer can be extended. KL is the divergence of the code to a standard normal, in bits,
    summed over the K entries of the code.

    Args:
        bottleneck_size: K, size of the code, >= 1.
        beta: weight of the divergence, >= 0.
    """

    name: ClassVar[str] = "precode"
    summary: ClassVar[str] = "a variational bottleneck before the last linear layer makes the gradient stochastic"
    paper: ClassVar[str] = "Scheliga et al., WACV 2022"

    bottleneck_size: int = 256
    beta: float = 1e-3

    def __post_init__(self) -> None:
        checks.whole("bottleneck_size", self.bottleneck_size, at_least=1)
        checks.number("beta", self.beta, at_least=0)

    def extend_model(self, module: nn.Module) -> nn.Module:
        name, linear = last_linear(module)
        weight = linear.weight
        bottleneck = VariationalBottleneck(linear.in_features, self.bottleneck_size, device=weight.device, dtype=weight.dtype)
        return replace(module, name, nn.Sequential(OrderedDict(bottleneck=bottleneck, classifier=linear)))

    def regularizer(self, module: nn.Module) -> Tensor | float:
        return self.beta * sum(b.take_divergence() for b in bottlenecks(module))


def bottlenecks(module: nn.Module) -> list[VariationalBottleneck]:
    """All variational bottlenecks of a model."""
    return [m for m in module.modules() if isinstance(m, VariationalBottleneck)]
