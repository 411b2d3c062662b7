"""What each kind of layer contributes to the comparison of two gradients, from its input and its back-propagated error.

For S victims of B images each, a layer's input ``a`` and the error ``delta`` of its output are batched over all S * B images.
The gradient of the loss with respect to the layer's weight is a sum of products of the two, so for a large layer it need not be
formed: its inner product with an observed gradient G is delta^T G a, and its squared norm follows from Gram matrices of size P x P
over the P images and positions (the idea behind ghost clipping, Li et al., ICLR 2022, here for matching), or, where only entries
that a mask leaves count, from products with the mask (:mod:`attacks.engine.layers.masked_energy`). Small ones form theirs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from attacks.engine.layers import convolution_comparison, outer_products
from attacks.engine.layers.blocked_convolution import BlockedConvolution
from attacks.engine.layers.convolution_comparison import Geometry
from attacks.engine.layers.turned_convolution import TurnedConvolution
from attacks.engine.observed import Dense, Factored, Matrices, factors
from attacks.engine.slots import Held, Slots, as_it_is
from attacks.objective.objectives import Comparison, Objective, explicit


class Observed:
    """What is known of one layer: its gradients [N, ...] and masks by name ("weight", "bias"), and where to keep them."""

    def __init__(self, gradients: dict[str, Tensor], masks: dict[str, Tensor], slots: Slots, objective: Objective) -> None:
        self.gradients, self.masks, self.slots = gradients, masks, slots
        self._storage, self.distance = objective.storage, objective.cost == "euclidean"

    def explicit(self, name: str, arrange: Callable[[Tensor], Tensor] | None = None) -> tuple[Held, Held | None]:
        """The gradients of a parameter, zero where masked, and the masks, held for the slots."""
        mask = self.masks.get(name)
        gradient = self.gradients[name] if mask is None else self.gradients[name] * mask
        return self.slots.hold(gradient, arrange), None if mask is None else self.slots.hold(mask.to(gradient.dtype), arrange)

    def matrices(self, positions: int, flat: Callable[[Tensor], Tensor] = as_it_is) -> tuple[Matrices, Matrices | None]:
        """The gradients of a weight that sees P positions, made [N, O, I] by ``flat``, and the mask, both stored for products."""
        gradients, rounded = flat(self.gradients["weight"]), self._storage == "bfloat16"
        if "weight" in self.masks:  # what a mask leaves of a matrix of low rank has a high one: no factors are looked for
            mask = flat(self.masks["weight"].bool())
            return Dense(gradients * mask, self.slots, bfloat16=rounded), Dense(mask, self.slots)
        if self._storage == "factored" and (found := factors(gradients, positions)) is not None:
            return Factored(found, self.slots), None
        return Dense(gradients, self.slots, bfloat16=rounded), None


class Rule:
    """Compares the gradients of one layer.

    Args:
        layer: the layer.
        observed: what was observed of it.
        a, delta: shapes of its input and output for the B images of one victim.
    """

    #: Replaces the layer's forward pass.
    forward: Callable[[Tensor], Tensor] | None = None

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        raise NotImplementedError

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        """From input and error, batched over victims and images, to the comparison of each parameter by name."""
        raise NotImplementedError


class _Explicit:
    """Compares a gradient that was formed."""

    def __init__(self, observed: Observed, name: str) -> None:
        (self._gradient, self._mask), self._distance = observed.explicit(name), observed.distance

    def __call__(self, gradient: Tensor) -> Comparison:
        mask = None if self._mask is None else self._mask.value
        return explicit(gradient, self._gradient.value, mask, distance=self._distance)


def _explicit(observed: Observed, *names: str) -> dict[str, _Explicit]:
    return {name: _Explicit(observed, name) for name in names if name in observed.gradients}


class LinearRule(Rule):
    """Input [S * B, ..., d] and error [S * B, ..., k]; positions beside the batch count like further images."""

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        self._slots, self._distance = observed.slots, observed.distance
        self._bias = _explicit(observed, "bias")
        self._matrices: tuple[Matrices, Matrices | None] | None = None
        self._formed: tuple[Held, Held | None] | None = None
        positions = a[:-1].numel()
        if "weight" in observed.gradients:
            if outer_products.cheaper_unformed(positions, delta[-1], a[-1], masked="weight" in observed.masks):
                self._matrices = observed.matrices(positions)
            else:
                self._formed = observed.explicit("weight")

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        slots = len(self._slots)
        a, delta = a.reshape(slots, -1, a.shape[-1]), delta.reshape(slots, -1, delta.shape[-1])
        compared = {name: compare(delta.sum(1)) for name, compare in self._bias.items()}
        if self._matrices is not None:
            compared["weight"] = outer_products.unformed(a, delta, *self._matrices)
        elif self._formed is not None:
            gradient, mask = self._formed
            compared["weight"] = outer_products.formed(
                a, delta, gradient.value, None if mask is None else mask.value, distance=self._distance)
        return compared


class ConvolutionRule(Rule):
    """Input [S * B, C, H, W] and error [S * B, O, H', W'] of a two-dimensional convolution padded with zeros."""

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        assert isinstance(layer, nn.Conv2d)
        self._slots, self._layer, self._distance = observed.slots, layer, observed.distance
        self._bias = _explicit(observed, "bias")
        self._geometry = Geometry(layer.stride, tuple(int(p) for p in layer.padding), layer.dilation, layer.groups)
        self._blocked: BlockedConvolution | None = None
        if TurnedConvolution.helps(layer):
            self.forward = TurnedConvolution(layer.weight, layer.bias, self._geometry.padding)
        self._matrices: tuple[Matrices, Matrices | None] | None = None
        self._formed: tuple[Held, Held | None] | None = None
        if "weight" not in observed.gradients:
            return
        weight = observed.gradients["weight"]
        positions, rows, columns = a[0] * delta[2:].numel(), weight.shape[1], weight[0, 0].numel()
        cheaper = outer_products.cheaper_unformed(positions, rows, columns, masked="weight" in observed.masks)
        if layer.groups == 1 and cheaper:
            self._reached = _taps_reached(layer, a, weight.device)
            self._matrices = observed.matrices(positions, self._flat)
        elif BlockedConvolution.helps(layer):
            self._blocked = self.forward = BlockedConvolution(layer)
            self._geometry = self._blocked.geometry
            self._formed = observed.explicit("weight", self._blocked.arrange)
        else:
            self._formed = observed.explicit("weight")

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        slots = len(self._slots)
        compared = {name: compare(delta.sum((2, 3)).unflatten(0, (slots, -1)).sum(1)) for name, compare in self._bias.items()}
        if self._matrices is not None:
            errors = _positions_last(delta.flatten(2), slots)
            compared["weight"] = outer_products.unformed(self._patches(a, slots), errors, *self._matrices)
        elif self._formed is not None:
            gradient, mask = self._formed
            where = None if mask is None else mask.value
            if self._blocked is not None:
                assert self._blocked.blocks is not None
                a, self._blocked.blocks = self._blocked.blocks, None
                where = self._blocked.real if where is None else where
            compared["weight"] = convolution_comparison.formed(
                a, delta, gradient.value, where, self._geometry, distance=self._distance)
        return compared

    def _flat(self, weight: Tensor) -> Tensor:
        """[N, O, C, kH, kW] to [N, O, I], in the order of the patches."""
        kept = weight.flatten(3) if self._reached is None else weight.flatten(3).index_select(3, self._reached)
        return kept.flatten(2)

    def _patches(self, a: Tensor, slots: int) -> Tensor:
        """The pixels under the kernel at each position, [S, P, I]; without those that only ever lie in the padding."""
        layer = self._layer
        patches = F.unfold(a, layer.kernel_size, layer.dilation, self._geometry.padding, layer.stride)
        if self._reached is not None:
            patches = patches.unflatten(1, (layer.in_channels, -1)).index_select(2, self._reached).flatten(1, 2)
        return _positions_last(patches, slots)


def _positions_last(values: Tensor, slots: int) -> Tensor:
    """[S * B, channels, positions] to [S, B * positions, channels]."""
    return values.unflatten(0, (slots, -1)).transpose(2, 3).flatten(1, 2)


def _taps_reached(layer: nn.Conv2d, a: Size, device: torch.device) -> Tensor | None:
    """Which of the kH * kW taps ever meet a pixel: the gradient of the others is zero, whatever the image. None where all do."""
    axes = []
    for size, kernel, stride, padding, dilation in _by_axis(layer, a):
        outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        axes.append([
            tap for tap in range(kernel)
            if any(0 <= out * stride - padding + tap * dilation < size for out in range(outputs))
        ])
    reached = [row * layer.kernel_size[1] + column for row in axes[0] for column in axes[1]]
    return None if len(reached) == layer.kernel_size[0] * layer.kernel_size[1] else torch.tensor(reached, device=device)


def _by_axis(layer: nn.Conv2d, a: Size) -> list[tuple[int, ...]]:
    return list(zip(a[2:], layer.kernel_size, layer.stride, map(int, layer.padding), layer.dilation, strict=True))


class NormalisationRule(Rule):
    """Batch norm with running statistics, group norm and layer norm: the input normalised, times the error, per channel."""

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        self._slots, self._layer = observed.slots, layer
        self._compare = _explicit(observed, "weight", "bias")

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        layer = self._layer
        if isinstance(layer, nn.LayerNorm):
            plain, kept = F.layer_norm(a, layer.normalized_shape, eps=layer.eps), len(layer.normalized_shape)
            summed = list(range(1, a.dim() + 1 - kept))
        else:
            if isinstance(layer, nn.GroupNorm):
                plain = F.group_norm(a, layer.num_groups, eps=layer.eps)
            else:
                assert isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))
                plain = F.batch_norm(a, layer.running_mean, layer.running_var, training=False, eps=layer.eps)
            summed = [1, *range(3, a.dim() + 1)]
        by_name = {"weight": plain * delta, "bias": delta}
        return {
            name: compare(by_name[name].unflatten(0, (len(self._slots), -1)).sum(summed)) for name, compare in self._compare.items()
        }


class EmbeddingRule(Rule):
    """Indices [S * B, ...] and error [S * B, ..., d]: each error is added to the row of its index."""

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        assert isinstance(layer, nn.Embedding)
        self._slots, self._rows, self._padding = observed.slots, layer.num_embeddings, layer.padding_idx
        self._compare = _explicit(observed, "weight")

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        slots = len(self._slots)
        chosen = F.one_hot(a.reshape(slots, -1), self._rows).to(delta.dtype)
        if self._padding is not None:
            chosen[..., self._padding] = 0  # the row of padding gets no gradient
        gradient = chosen.mT @ delta.reshape(slots, -1, delta.shape[-1])
        return {name: compare(gradient) for name, compare in self._compare.items()}


def rule(layer: nn.Module) -> type[Rule] | None:
    """How to compare the gradient of a layer, or None where there is no rule. Subclasses may compute anything: exact types only."""
    if type(layer) is nn.Linear:
        return LinearRule
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return ConvolutionRule
    if type(layer) in (nn.GroupNorm, nn.LayerNorm):
        return NormalisationRule
    if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d) and not layer.training and layer.running_mean is not None:
        return NormalisationRule
    if type(layer) is nn.Embedding and layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse:
        return EmbeddingRule
    return None
