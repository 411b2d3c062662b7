"""PRECODE: a variational bottleneck before the classifier."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from defenses.base import Defense
from defenses.release import Release
from defenses.step import Facts
from defenses.stochastic import StochasticLayer
from defenses.support import checks
from defenses.support.divergence import to_standard_normal
from defenses.support.last_linear import last_linear, replace


class VariationalBottleneck(StochasticLayer):
    """Encode features to a Gaussian, sample from it, decode to features of the same size (Scheliga et al., WACV 2022, eq. 3).

    mu, s = encoder(h); sigma = softplus(s); z = mu + sigma * epsilon; output = decoder(z). It samples in evaluation as in
    training. ``divergence`` is that of the code to a standard normal, in bits.

    Args:
        features: size d of the features h.
        size: K, the size of z.
    """

    reads_features: ClassVar[str] = "encoder"
    reads_code: ClassVar[str] = "decoder"

    def __init__(self, features: int, size: int, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.size = size
        self.encoder = nn.Linear(features, 2 * size, device=device, dtype=dtype)
        self.decoder = nn.Linear(size, features, device=device, dtype=dtype)

    def law(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mu, s = self.encoder(h).chunk(2, dim=-1)
        return mu, F.softplus(s)

    def forward(self, h: Tensor) -> Tensor:
        """Features [B, ..., d] to features of the same shape."""
        mu, sigma = self.law(h)
        self.divergence = to_standard_normal(mu, sigma).flatten(1).sum(1) / math.log(2)
        return self.decoder(self.sample(mu, sigma))


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
    regularizer_reads_parameters: ClassVar[bool] = False  # the divergence of a sample follows from what the encoder computes of it

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

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        # The gradient leaves as it is; what is random is in the model, whose stochastic layers speak for themselves.
        return dict.fromkeys(shared, Release())


def bottlenecks(module: nn.Module) -> list[VariationalBottleneck]:
    """All variational bottlenecks of a model."""
    return [m for m in module.modules() if isinstance(m, VariationalBottleneck)]
