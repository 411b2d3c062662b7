"""Telling apart the inputs of a linear layer before a ReLU that saw several images, by the zeros that the ReLU leaves in errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from defenses.support.upload import upload

#: Submatrices that are sampled at once for each victim, between which an attacker looks whether all images are found.
ROUND = 4096
#: Of directions in planes of two columns beside them.
_IN_PLANES = 1024
#: Entries of errors that are computed at once, by the type of the device.
_AT_ONCE = {"cpu": 2**22, "cuda": 2**28}
#: Singular values below this share of the largest are rounding: of a float32 gradient those are about 3e-8.
_RANK = 2e-7
#: An entry of a normalised row is taken for zero below these shares, before a direction is refined and as it is.
_LOOSE, _STEPS = 3e-4, (1e-3, 1e-4, 1e-5)
#: Rounding of what was shared in float32 leaves of a zero up to this share of the row's length, in the gradient's own units.
_ROUNDING = 3e-8
#: A direction of which less than this is not in the span of others is taken for dependent on them.
_DEPENDENT = 0.1
#: All images are found where of each at least this share of units is active where its error is not zero, and nowhere else.
_FOUND = 0.99
#: Of the random range finder.
_MORE, _POWER = 8, 2


class Separated(NamedTuple):
    """What entered a layer.

    Attributes:
        inputs: [N, B, I]; zero in the place of images that the gradient does not tell.
        agreement: [N], share of the units, over all images, whose error is zero exactly where a ReLU behind them would be inactive
            (the sparsity-matching coefficient); 1 where all images are right.
    """

    inputs: Tensor
    agreement: Tensor


def separated_by_sparsity(gradients: tuple[Tensor, Tensor], parameters: tuple[Tensor, Tensor], batch_size: int, samples: int,
                          seeds: Sequence[int]) -> Separated:
    """The inputs of linear layers before a ReLU that saw B images each (SPEAR; Dimitrov et al., NeurIPS 2024).

    With the errors E [O, B] of the layer's outputs and the inputs X [B, I] the gradient of the weight is G = E X, of rank B at
    most, and that of the bias E 1. From a decomposition G = L R follows E = L Q and X = Q^-1 R for one matrix Q [B, B] (section 3
    there). The ReLU makes about half of E zero. Of B - 1 rows of L whose units are inactive for one image the kernel is the column
    of Q of that image, up to its length. Rows are drawn at random, and each kernel is a proposal q. The zeros of L q tell the
    columns from others: what is a combination of columns is zero only where all of these are, but for a few units. So of all
    proposals the B independent ones with most zeros, chosen greedily, are the columns as soon as all came up. The gradient of the
    bias gives their lengths. Where then the error of each image is zero exactly where the layer's output is not positive, all are
    right, and the sampling ends.

    The columns of images for which most units are active come up rarely, and combinations of them with a few others more often. So
    what one row leaves of the plane of two chosen directions is proposed too (ours). Of an MLP after 10 epochs 8 of 8 batches of 12
    CIFAR-10 images are told by 2^18 samples; by half as many 6, and each of the other two has an image for which three of four
    units are active.

    The authors keep a pool of proposals above a threshold of zeros, remove duplicates, choose greedily and then exchange members
    of the pool for a larger agreement. The greedy choice is an independent set of greatest weight, which is the same from what was
    chosen before and the new proposals as from all proposals so far; so no pool and no threshold are kept here. Nothing was left
    to exchange for in what was measured. What is chosen is made precise by all of its zeros, as rounding in B - 1 rows is large.

    Args:
        gradients: of weight [N, O, I] and bias [N, O].
        parameters: weight [O, I] and bias [O].
        batch_size: B.
        samples: kernels for each victim, at most, in rounds of ``ROUND``. About 2^(B-1) log B are needed where half of the units
            are active.
        seeds: of the samples, one per victim.

    Returns:
        The inputs, of the type of the gradients.
    """
    weight, bias = gradients
    outputs, entries = weight.shape[1:]
    few = _few(outputs * entries, weight)
    parts = [_decomposed(w, b, batch_size) for w, b in zip(weight.split(few), bias.split(few), strict=True)]
    left, size, right = (torch.cat(part) for part in zip(*parts, strict=True))
    inputs = left.new_zeros(len(weight), batch_size, entries)
    agreement = left.new_zeros(len(weight))
    of_layer, offset = (parameter.detach().double() for parameter in parameters)
    for rank, victims in _by_rank(size, batch_size).items():
        places = upload(victims, weight.device, torch.long)
        sized = size[places, :rank, None] * right[places, :rank]
        problem = _Problem(left[places, :, :rank], size[places, :rank], sized[..., :-1] @ of_layer.T, sized[..., -1:], offset)
        columns, agreement[places] = _columns(problem, samples, [seeds[place] for place in victims])
        read = _solved(columns, sized)
        inputs[places, :rank] = (read[..., :-1] / read[..., -1:]).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return Separated(inputs.to(weight), agreement.to(weight))


def _few(entries: int, like: Tensor) -> int:
    """How many victims of so many numbers each are computed at once."""
    return max(1, _AT_ONCE.get(like.device.type, _AT_ONCE["cpu"]) // entries)


def _decomposed(weight: Tensor, bias: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values [N, r], r <= rank, with vectors [N, O, r] and [N, r, I + 1], of the gradient of the weight with
    that of the bias beside it, by a random range finder (Halko et al., SIAM Review 2011): what is below is rounding."""
    matrix = torch.cat([weight, bias[..., None]], -1).double()
    few = min(rank + _MORE, *matrix.shape[1:])
    generator = torch.Generator("cpu").manual_seed(0)
    begin = torch.randn(matrix.shape[2], few, generator=generator, dtype=torch.float64, device="cpu")
    basis = torch.linalg.qr(matrix @ upload(begin, matrix.device)).Q
    for _ in range(_POWER):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ basis).Q).Q
    left, size, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    return (basis @ left)[..., :rank], size[:, :rank], right[:, :rank]


def _by_rank(size: Tensor, batch_size: int) -> dict[int, list[int]]:
    """The victims by the rank of their gradients, at least 1: images with the same pixels, or without an error, leave a smaller one
    than their number."""
    if batch_size == 1:
        return {1: list(range(len(size)))}
    ranks = (size > _RANK * size[:, :1]).sum(1).clamp_min(1).tolist()
    return {rank: [place for place, own in enumerate(ranks) if own == rank] for rank in sorted(set(ranks))}


class _Problem(NamedTuple):
    """A decomposition of gradients of one rank r.

    Attributes:
        left: L, orthonormal columns [N, O, r].
        size: singular values [N, r].
        outputs: R W^T [N, r, O], with R the part of the weight.
        scale: R's column of the bias, [N, r, 1].
        offset: the layer's bias [O].
    """

    left: Tensor
    size: Tensor
    outputs: Tensor
    scale: Tensor
    offset: Tensor

    def of(self, places: Tensor) -> _Problem:
        """The victims at some places."""
        left, size, outputs, scale = (part[places] for part in self[:4])
        return _Problem(left, size, outputs, scale, self.offset)


def _columns(problem: _Problem, samples: int, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The columns of Q as rows [N, r, r], of unit length, and the agreement under them, [N]."""
    victims, units, rank = problem.left.shape
    columns = torch.eye(rank, dtype=problem.left.dtype, device=problem.left.device).repeat(victims, 1, 1)
    if rank == 1:  # the kernel of no row is the whole line
        return columns, _agreement(problem, columns).mean(1)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    best, score = columns.clone(), problem.left.new_full((victims,), -1.0)
    waiting, few = list(range(victims)), _few(ROUND * units, problem.left)
    for _ in range(math.ceil(samples / ROUND)):
        found: list[Tensor] = []
        for begin in range(0, len(waiting), few):
            some = waiting[begin : begin + few]
            places = upload(some, problem.left.device, torch.long)
            own = problem.of(places)
            rows = _rows(own)
            drawn = [_drawn(generators[place], rank) for place in some]
            whole, planes = (upload(torch.stack(part), rows.device) for part in zip(*drawn, strict=True))
            before = columns[places]
            proposed = torch.cat([before, _kernels(rows, whole), _in_planes(rows, before, planes)], 1)
            columns[places] = chosen = _precise(own, rows, _sparsest(rows, proposed))
            agreement = _agreement(own, chosen)
            better = agreement.mean(1) > score[places]
            score[places] = torch.where(better, agreement.mean(1), score[places])
            best[places] = torch.where(better.view(-1, 1, 1), chosen, best[places])
            found.append(agreement.amin(1) >= _FOUND)
        waiting = [place for place, done in zip(waiting, torch.cat(found).tolist(), strict=True) if not done]
        if not waiting:
            break
    return best, score


def _rows(problem: _Problem) -> Tensor:
    """The rows of L, of unit length [N, O, r]; zero where a unit is active for no image."""
    length = _lengths(problem)
    active = length > _RANK * length.amax(1, keepdim=True)
    return torch.where(active[..., None], problem.left / problem.left.norm(dim=2, keepdim=True), 0)


def _lengths(problem: _Problem) -> Tensor:
    """Of the rows of the gradient, [N, O]."""
    return (problem.left * problem.size[:, None]).norm(dim=2)


def _drawn(generator: torch.Generator, rank: int) -> tuple[Tensor, Tensor]:
    """Numbers in [0, 1) for the proposals of a round, [S, r - 1] and [P, 3]."""
    whole, planes = (torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
                     for shape in ((ROUND, rank - 1), (_IN_PLANES, 3)))
    return whole, planes


def _in_planes(rows: Tensor, columns: Tensor, drawn: Tensor) -> Tensor:
    """What one row leaves of the plane of two of the columns [N, r, r], [N, P, r] of unit length, for numbers in [0, 1) [N, P, 3];
    zero where it leaves the plane."""
    rank = columns.shape[1]
    first = (drawn[..., 0] * rank).long()
    second = (first + 1 + (drawn[..., 1] * (rank - 1)).long()) % rank
    one, other = (columns.gather(1, place[..., None].expand(-1, -1, rank)) for place in (first, second))
    row = _active(rows, drawn[..., 2])
    found = one * (row * other).sum(2, keepdim=True) - other * (row * one).sum(2, keepdim=True)
    return _unit(found)


def _active(rows: Tensor, drawn: Tensor) -> Tensor:
    """Rows of active units [N, P, r] for numbers in [0, 1) [N, P]."""
    active = rows.square().sum(2) > 0
    order = (~active).long().argsort(dim=1, stable=True)
    place = order.gather(1, (drawn * active.sum(1, keepdim=True)).long())
    return rows.gather(1, place[..., None].expand(-1, -1, rows.shape[2]))


def _unit(directions: Tensor) -> Tensor:
    """At unit length; zero where there is none."""
    directions = directions / directions.norm(dim=2, keepdim=True)
    return torch.where(torch.isfinite(directions).all(2, keepdim=True), directions, 0)


def _kernels(rows: Tensor, drawn: Tensor) -> Tensor:
    """The kernels of r - 1 rows of active units, [N, S, r] of unit length, for rows drawn by numbers in [0, 1) [N, S, r - 1]; zero
    where the rows are dependent."""
    victims, count, less = drawn.shape
    chosen = _active(rows, drawn.flatten(1)).view(victims, count, less, less + 1)
    # One more equation, which fixes the length: a kernel orthogonal to it has probability zero.
    square = torch.cat([chosen, torch.ones_like(chosen[..., :1, :])], 2)
    last = torch.eye(less + 1, dtype=rows.dtype, device=rows.device)[:, -1:]
    return _unit(torch.linalg.solve_ex(square, last.expand(victims, count, -1, 1)).result[..., 0])


def _sparsest(rows: Tensor, proposed: Tensor) -> Tensor:
    """Of directions [N, S, r] the r independent ones [N, r, r] of most zeros, chosen one after another."""
    rank = proposed.shape[2]
    # In place, and in float32: this is most of the time of an attack.
    zeros = (proposed.float() @ rows.float().mT).abs_().lt_(_LOOSE).sum(2)
    left, chosen = proposed, []
    for _ in range(rank):
        length = left.norm(dim=2)
        place = torch.where(length > _DEPENDENT, zeros, -1).argmax(1).view(-1, 1, 1).expand(-1, 1, rank)
        chosen.append(proposed.gather(1, place))
        new = left.gather(1, place)
        new = new / new.norm(dim=2, keepdim=True).clamp_min(torch.finfo(new.dtype).tiny)
        left = left - (left @ new.mT) * new
    return torch.cat(chosen, 1)


def _precise(problem: _Problem, rows: Tensor, directions: Tensor) -> Tensor:
    """Directions [N, r, r], each by all rows on which it is about zero: as the one on which these are least."""
    for limit in _STEPS:
        zero = ((rows @ directions.mT).abs() <= _limit(problem, directions).clamp_min(limit)).to(rows.dtype)
        squares = (zero.mT[..., None] * rows[:, None]).mT @ rows[:, None]
        directions = torch.linalg.eigh(squares).eigenvectors[..., 0]
    return directions


def _limit(problem: _Problem, directions: Tensor) -> Tensor:
    """Up to what the product of a row of unit length with a direction [N, r, r] can be rounding, [N, O, r]."""
    scale = _lengths(problem) / problem.left.norm(dim=2).clamp_min(torch.finfo(problem.left.dtype).tiny)
    return _ROUNDING * scale[..., None] * (directions / problem.size[:, None]).norm(dim=2)[:, None]


def _agreement(problem: _Problem, columns: Tensor) -> Tensor:
    """Of each image the share of units whose error is zero where the layer's output is not positive, and nowhere else, [N, r]."""
    zero = (_rows(problem) @ columns.mT).abs() <= _limit(problem, columns).clamp_min(_STEPS[-1])
    read = _solved(columns, torch.cat([problem.outputs, problem.scale], 2))
    active = read[..., :-1] / read[..., -1:] + problem.offset > 0
    return (zero.mT != active).to(columns.dtype).mean(2)


def _solved(columns: Tensor, right: Tensor) -> Tensor:
    """Q^-1 times what is right of it, [N, r, k]."""
    return torch.linalg.solve_ex(columns.mT, right).result
