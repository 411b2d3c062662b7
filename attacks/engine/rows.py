"""Gradients of many images, one row an image, for inner products with others: formed, or as products of errors and inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor

from attacks.objective.comparison import total
from attacks.objective.parts import parts

#: A gradient that is a sum of more outer products than these is formed.
_MOST_POSITIONS = 4


class Rows(ABC):
    """The gradients [K, n] of K images by one parameter of n entries."""

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """What is held."""

    @abstractmethod
    def products(self, observed: Tensor) -> Tensor:
        """Inner products [V, K] with gradients [V, *shape]."""

    @abstractmethod
    def gram(self, other: Rows) -> Tensor:
        """Inner products [K, K'] with other rows by the same parameter, as float64; those of formed ones are made as they are."""

    @abstractmethod
    def squared(self) -> Tensor:
        """Squared norms [K]."""

    @abstractmethod
    def mean(self) -> Tensor:
        """The mean of the rows [n]."""

    @abstractmethod
    def masked_squared(self, masks: Tensor) -> Tensor:
        """Squared norms [V, K] over the entries that masks [V, *shape] leave."""

    @abstractmethod
    def entries(self, places: Tensor | None) -> Tensor:
        """Entries at flat places [E], all where None: [K, E]."""

    @abstractmethod
    def scaled(self, factor: float | Tensor) -> Rows:
        """Every row times a number, or its own of [K]."""


@dataclass(frozen=True)
class FormedRows(Rows):
    """``values`` [K, n]."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def products(self, observed: Tensor) -> Tensor:
        # In float64: a product of matrices in float32 errs by 3e-3 over three million entries.
        return observed.flatten(1).double() @ self.values.mT.double()

    def gram(self, other: Rows) -> Tensor:
        return (self.values @ other.entries(None).mT).double()

    def squared(self) -> Tensor:
        return self.values.double().square().sum(1)

    def mean(self) -> Tensor:
        return self.values.mean(0)

    def masked_squared(self, masks: Tensor) -> Tensor:
        return masks.flatten(1).double() @ self.values.double().square().mT

    def entries(self, places: Tensor | None) -> Tensor:
        return self.values if places is None else self.values.index_select(1, places)

    def scaled(self, factor: float | Tensor) -> FormedRows:
        return FormedRows(self.values * (factor[:, None] if isinstance(factor, Tensor) else factor))


@dataclass(frozen=True)
class OuterRows(Rows):
    """The gradient of image k is delta[k]^T a[k], of inputs ``a`` [K, P, I] and errors ``delta`` [K, P, O] at P positions.

    <delta^T a, G> = sum of (delta G) * a, and <delta^T a, delta'^T a'> = sum of (delta delta'^T) * (a a'^T): nothing of size O x I
    is made for an image.
    """

    a: Tensor
    delta: Tensor

    def __len__(self) -> int:
        return len(self.a)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.a, self.delta

    def products(self, observed: Tensor) -> Tensor:
        return torch.stack([((self.delta @ matrix) * self.a).sum((1, 2)) for matrix in observed.flatten(2)])

    def gram(self, other: Rows) -> Tensor:
        assert isinstance(other, OuterRows)
        # What gradients have in common is larger than what tells them apart.
        (a, delta), (others_a, others_delta) = ([t.double().unbind(1) for t in rows.tensors] for rows in (self, other))
        pairs = product(range(len(a)), range(len(others_a)))
        return total([(delta[p] @ others_delta[q].mT) * (a[p] @ others_a[q].mT) for p, q in pairs])

    def squared(self) -> Tensor:
        return ((self.delta @ self.delta.mT) * (self.a @ self.a.mT)).sum((1, 2))

    def mean(self) -> Tensor:
        return (self.delta.flatten(0, 1).mT @ self.a.flatten(0, 1)).flatten() / len(self.a)

    def masked_squared(self, masks: Tensor) -> Tensor:
        # A sum over pairs of positions, bilinear in the products within each pair, as a mask is its own square.
        pairs = [((1 if p == q else 2) * self.delta[:, p] * self.delta[:, q], self.a[:, p] * self.a[:, q])
                 for p, q in combinations_with_replacement(range(self.a.shape[1]), 2)]
        matrices = (mask.to(self.a.dtype) for mask in masks.flatten(2))
        return torch.stack([total([((delta @ matrix) * a).sum(1) for delta, a in pairs]) for matrix in matrices])

    def entries(self, places: Tensor | None) -> Tensor:
        if places is None:
            return (self.delta.mT @ self.a).flatten(1)
        rows, columns = places // self.a.shape[2], places % self.a.shape[2]
        return (self.delta.index_select(2, rows) * self.a.index_select(2, columns)).sum(1)

    def scaled(self, factor: float | Tensor) -> OuterRows:
        return OuterRows(self.a, self.delta * (factor[:, None, None] if isinstance(factor, Tensor) else factor))


def squared_norms(gradients: Tensor) -> Tensor:
    """Squared norms [N] of gradients [N, ...] in float64, in parts: in it large ones would take twice their memory."""
    return torch.cat([some.double().square().sum()[None] if len(some) == 1 else some.double().square().reshape(len(some), -1).sum(1)
                      for some in parts(gradients)])


def joined(blocks: Sequence[Rows]) -> Rows:
    """The rows of several blocks, all of one form, one after another."""
    return type(blocks[0])(*(torch.cat(parts) for parts in zip(*(block.tensors for block in blocks), strict=True)))


def rows_of(a: Tensor, delta: Tensor) -> Rows:
    """Rows from inputs [K, P, I] and errors [K, P, O], in the form that takes less."""
    (_, positions, columns), rows = a.shape, delta.shape[2]
    if positions <= _MOST_POSITIONS and 2 * positions * (rows + columns) <= rows * columns:
        return OuterRows(a, delta)
    return FormedRows((delta.mT @ a).flatten(1))
