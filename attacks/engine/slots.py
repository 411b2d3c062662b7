"""Tensors of the victims that an optimisation works on at present, each in a slot that another victim takes over later."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.objective.parts import parts
from defenses.support.upload import upload

#: Products of matrices round each row alike for any number of rows that is a multiple of this (measured with oneMKL; rows beyond
#: the last multiple take another path). What becomes of a victim then does not depend on how many are attacked beside it.
_ALIKE = 4


class Held:
    """A tensor of one entry a slot; its place in memory stays, so that a recorded step sees what is loaded later."""

    def __init__(self, source: Tensor, arrange: Callable[[Tensor], Tensor], slots: Slots, mask: Tensor | None = None) -> None:
        self._source, self._arrange, self._mask = source, arrange, mask
        if slots.plain and arrange is as_it_is:
            self.value = source if mask is None else source * mask
            return
        first = self._of(upload(slots.positions[:1], source.device))
        self.value = first.new_empty((len(slots.positions), *first.shape[1:]))
        index, at = upload(slots.positions, source.device), 0
        if arrange is as_it_is and mask is None:
            torch.index_select(source, 0, index, out=self.value)
            return
        for part in parts(self.value):  # an arranged or masked copy of all would double the memory
            part.copy_(self._of(index[at : (at := at + len(part))]))

    def keep(self, slots: Tensor) -> None:
        self.value = self.value[slots]

    def load(self, slot: int, position: int) -> None:
        self.value[slot] = self._of(slice(position, position + 1))[0]

    def _of(self, victims: Tensor | slice) -> Tensor:
        some = self._source[victims]
        return self._arrange(some if self._mask is None else some * self._mask[victims])


class Slots:
    """Which victim is in which slot.

    Args:
        positions: the victim of each slot, by its position in the observation.
        victims: how many there are.
        reloaded: whether slots are given to other victims later; if not, and all victims are there, nothing is copied.

    Attributes:
        alone: whether one victim is all there is, and ever will be.
    """

    def __init__(self, positions: Sequence[int], victims: int, *, reloaded: bool) -> None:
        self.positions = list(positions)
        self.plain = not reloaded and self.positions == list(range(victims))
        self.alone = self.plain and victims == 1
        self._held: list[Held] = []

    def __len__(self) -> int:
        return len(self.positions)

    def hold(self, source: Tensor, arrange: Callable[[Tensor], Tensor] | None = None, *, mask: Tensor | None = None) -> Held:
        """Keep the entries of ``source`` [victims, ...] for the victims in the slots, zero where a mask is, each passed through
        ``arrange`` [1, ...]."""
        held = Held(source, as_it_is if arrange is None else arrange, self, mask)
        self._held.append(held)
        return held

    def load(self, slot: int, position: int) -> None:
        """Give a slot to another victim."""
        self.positions[slot] = position
        for held in self._held:
            held.load(slot, position)

    def keep(self, slots: Sequence[int]) -> None:
        """Go on with some of the slots only."""
        self.positions = [self.positions[slot] for slot in slots]
        for held in self._held:
            held.keep(upload(list(slots), held.value.device))

    def bytes_per_slot(self) -> int:
        """What all held tensors take for one victim."""
        return sum(held.value[0].numel() * held.value.element_size() for held in self._held)


def as_it_is(values: Tensor) -> Tensor:
    """No arrangement."""
    return values


def even(count: int) -> int:
    """The largest number of slots, up to the given one, in which victims are rounded alike; below four there is none."""
    return count - count % _ALIKE if count > _ALIKE else count


def filled(count: int, width: int, images: int) -> int:
    """Slots for ``count`` victims of so many images each, where ``width``, an even number, are worked on at once: as many, or up to
    three more, so that victims are rounded alike. Where their images, which are the rows of most products, are a multiple of four
    already, two and three are enough (measured on LeNet and MLP; five are not). One that is attacked alone is left alone."""
    slots = count if count < _ALIKE and images % _ALIKE == 0 else -(-count // _ALIKE) * _ALIKE
    return slots if slots <= width else count
