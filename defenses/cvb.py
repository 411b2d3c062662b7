"""CVB: a convolutional variational bottleneck early in the model."""

from __future__ import annotations

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
from defenses.support.first_block import first_block
from defenses.support.last_linear import replace


class ConvolutionalBottleneck(StochasticLayer):
    """Encode a feature map to a Gaussian at each position, sample from it, decode to a map of the same size (Scheliga et al.,
    2023).

    mu, s = encoder(h); sigma = softplus(s); z = mu + sigma * epsilon; output = decoder(z). The encoder is a convolution that keeps
    the size of the map, the decoder one of 1x1; neither has a bias. It samples in evaluation as in training. ``divergence`` is that
    of the code to a standard normal in nats, summed over the K channels, the mean over the positions.

    Args:
        channels: C of the feature map.
        size: K, channels of z.
        kernel_size: side of the encoder's kernel, odd.
    """

    reads_code: ClassVar[str] = "decoder"

    def __init__(self, channels: int, size: int, kernel_size: int, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(channels, 2 * size, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        self.decoder = nn.Conv2d(size, channels, 1, bias=False, device=device, dtype=dtype)

    def law(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mu, s = self.encoder(h).chunk(2, dim=1)
        return mu, F.softplus(s)

    def forward(self, h: Tensor) -> Tensor:
        """A feature map [B, C, H, W] to one of the same shape."""
        mu, sigma = self.law(h)
        self.divergence = to_standard_normal(mu, sigma).sum(1).flatten(1).mean(1)
        return self.decoder(self.sample(mu, sigma))


@dataclass(frozen=True)
class CVB(Defense):
    """Put a convolutional variational bottleneck behind the first convolution and add beta * KL to the loss (Scheliga et al.,
    2023).

    The authors' answer to attackers who leave out what comes behind PRECODE's bottleneck: there is next to nothing before this
    one. It stands behind the block of the first convolution, its activation and pooling included, where the authors' networks have
    it (:func:`defenses.support.first_block.first_block`). K is half of the block's channels, at least 8.

    Where the authors' code differs: it takes half of the channels also where that is less than 8 (from 8 channels on); it limits s
    to -5 to 5; and its KL takes sigma for the logarithm of the variance.

    Args:
        beta: weight of the divergence, >= 0.
        kernel_size: side of the encoder's kernel, odd, >= 1.
    """

    name: ClassVar[str] = "cvb"
    summary: ClassVar[str] = "a convolutional variational bottleneck behind the first convolution makes the gradient stochastic"
    paper: ClassVar[str] = "Scheliga et al., 2023"
    regularizer_reads_parameters: ClassVar[bool] = False  # the divergence of a sample follows from what the encoder computes of it

    beta: float = 0.1
    kernel_size: int = 5

    def __post_init__(self) -> None:
        checks.number("beta", self.beta, at_least=0)
        checks.whole("kernel_size", self.kernel_size, at_least=1)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")

    def extend_model(self, module: nn.Module) -> nn.Module:
        name, convolution = first_block(module)
        channels, weight = convolution.out_channels, convolution.weight
        bottleneck = ConvolutionalBottleneck(channels, max(8, channels // 2), self.kernel_size, device=weight.device,
                                             dtype=weight.dtype)
        return replace(module, name, nn.Sequential(OrderedDict(block=module.get_submodule(name), bottleneck=bottleneck)))

    def regularizer(self, module: nn.Module) -> Tensor | float:
        return self.beta * sum(m.take_divergence() for m in module.modules() if isinstance(m, ConvolutionalBottleneck))

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        # The gradient leaves as it is; what is random is in the model, whose stochastic layers speak for themselves.
        return dict.fromkeys(shared, Release())
