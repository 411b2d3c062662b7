"""What each kind of layer contributes to the comparison of two gradients, from its input and its back-propagated error.

For N victims of B images each, a layer's input ``a`` and the error ``delta`` of its output are batched over all N * B images.
The gradient of the loss with respect to the layer's weight is a sum of products of the two, so for a linear layer it need not be
formed: its inner product with an observed gradient G is delta^T G a, and its squared norm follows from Gram matrices of size B x B
(the idea behind ghost clipping, Li et al., ICLR 2022, here for matching). Small weights (convolutions, norms, biases) form theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from attacks.convolution_comparison import ConvolutionComparison


class Comparison(NamedTuple):
    """Of a candidate's gradient with the observed one, per victim [N]: inner product, and squared norm of the candidate's."""

    product: Tensor
    squared_norm: Tensor


#: From (layer, input, error, observed gradients [N, ...] by parameter name, N) to the comparisons of its parameters.
Rule = Callable[[nn.Module, Tensor, Tensor, dict[str, Tensor], int], list[Comparison]]


def explicit(gradient: Tensor, observed: Tensor) -> Comparison:
    """Compare a formed gradient [N, ...] with the observed one."""
    candidate, observed = gradient.flatten(1), observed.flatten(1)
    return Comparison((candidate * observed).sum(1), candidate.square().sum(1))


def linear(layer: nn.Module, a: Tensor, delta: Tensor, observed: dict[str, Tensor], victims: int) -> list[Comparison]:
    """Input [N * B, ..., d] and error [N * B, ..., k]; positions beside the batch count like further images."""
    a, delta = a.reshape(victims, -1, a.shape[-1]), delta.reshape(victims, -1, delta.shape[-1])
    comparisons = []
    if "weight" in observed:
        # delta G is both the first half of the inner product and its derivative by a; autograd reads G once more for delta's.
        product = ((delta @ observed["weight"]) * a).sum((1, 2))
        squared = ((delta @ delta.mT) * (a @ a.mT)).sum((1, 2))
        comparisons.append(Comparison(product, squared))
    if "bias" in observed:
        comparisons.append(explicit(delta.sum(1), observed["bias"]))
    return comparisons


def convolution(layer: nn.Module, a: Tensor, delta: Tensor, observed: dict[str, Tensor], victims: int) -> list[Comparison]:
    """Input [N * B, C, H, W] and error [N * B, O, H', W'] of a two-dimensional convolution padded with zeros."""
    assert isinstance(layer, nn.Conv2d)
    comparisons = []
    if "weight" in observed:
        comparisons.append(Comparison(*ConvolutionComparison.apply(a, delta, observed["weight"], layer, victims)))
    if "bias" in observed:
        comparisons.append(explicit(delta.sum((2, 3)).unflatten(0, (victims, -1)).sum(1), observed["bias"]))
    return comparisons


def normalisation(layer: nn.Module, a: Tensor, delta: Tensor, observed: dict[str, Tensor], victims: int) -> list[Comparison]:
    """Batch norm with running statistics, group norm and layer norm: the input normalised, times the error, per channel."""
    if isinstance(layer, nn.LayerNorm):
        plain, kept = F.layer_norm(a, layer.normalized_shape, eps=layer.eps), len(layer.normalized_shape)
        summed = list(range(1, a.dim() + 1 - kept))
    else:
        if isinstance(layer, nn.GroupNorm):
            plain = F.group_norm(a, layer.num_groups, eps=layer.eps)
        else:
            assert isinstance(layer, nn.BatchNorm2d)
            plain = F.batch_norm(a, layer.running_mean, layer.running_var, training=False, eps=layer.eps)
        summed = [1, *range(3, a.dim() + 1)]
    by_name = {"weight": plain * delta, "bias": delta}
    return [
        explicit(value.unflatten(0, (victims, -1)).sum(summed), observed[name])
        for name, value in by_name.items() if name in observed
    ]


def rule(layer: nn.Module) -> Rule | None:
    """How to compare the gradient of a layer, or None where there is no rule. Subclasses may compute anything: exact types only."""
    if type(layer) is nn.Linear:
        return linear
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return convolution
    if type(layer) in (nn.GroupNorm, nn.LayerNorm):
        return normalisation
    if type(layer) is nn.BatchNorm2d and not layer.training and layer.running_mean is not None:
        return normalisation
    return None
