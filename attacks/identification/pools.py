"""Scoring the candidates of all pools, each once, as many at a time as the memory holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.base import Progress
from attacks.engine import memory
from attacks.identification.candidates import Candidates
from defenses import Choice

#: Candidates that are looked at at once, at most.
_MOST = 512


def scored(candidates: Candidates, score: Callable[[Tensor, Tensor, Tensor], Tensor], bytes_per_image: Callable[[], int],
           tell: Progress) -> Tensor:
    """The scores of all pools, [N, M] in float64.

    Args:
        candidates: the pools.
        score: from images [K, C, H, W], labels [K] and the places [V] of the victims with any of them in their pools to [V, K].
        bytes_per_image: what that takes for each image.
        tell: of the candidates done.
    """
    pools, device = candidates.pools, candidates.images.device
    used = torch.zeros(len(candidates.images), dtype=torch.bool, device=device)
    used[pools.flatten()] = True
    places = used.nonzero().flatten()
    scores = torch.empty((len(pools), len(candidates.images)), dtype=torch.float64, device=device)
    # Where a pool is of one class, no candidates of another are looked at beside its own.
    labels = candidates.labels[pools]
    one_class = bool((labels == labels[:, :1]).all())
    done = 0

    def attempt(width: int) -> bool:
        nonlocal done
        some = places[done : done + width]
        if one_class:
            others = (candidates.labels[some] != candidates.labels[some[0]]).nonzero().flatten()
            some = some[: int(others[0])] if len(others) else some
        inside = torch.zeros_like(used)
        inside[some] = True
        victims = inside[pools].any(1).nonzero().flatten()
        scores[victims[:, None], some] = score(candidates.images[some], candidates.labels[some], victims).double()
        done += len(some)
        tell(done, len(places))
        return done < len(places)

    memory.with_less(attempt, at_once(bytes_per_image(), device), device)
    return scores.gather(1, pools)


def over_choices(choices: Sequence[Choice], score: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A score for candidates that a defense may have changed by one of some choices: minus the logarithm of the mean of their
    likelihoods, by the probabilities of the choices. Without choices the score itself.

    Args:
        choices: with their probabilities.
        score: from images [K, C, H, W] and further arguments to minus the logarithms of likelihoods [V, K].
    """
    if not choices:
        return score

    def mixed(images: Tensor, *others: Tensor) -> Tensor:
        found = [math.log(choice.probability) - score(choice.changed(images), *others).double() for choice in choices]
        return -torch.logsumexp(torch.stack(found), 0)

    return mixed


def at_once(bytes_per_image: int, device: torch.device) -> int:
    """How many images to work on at once."""
    return max(1, min(_MOST, memory.budget(device) // max(1, bytes_per_image)))


def of_victims(values: Tensor, victims: Tensor) -> Tensor:
    """What belongs to some victims, by their places in ascending order; all are not copied."""
    return values if len(victims) == len(values) else values.index_select(0, victims)
