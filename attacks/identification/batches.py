"""Candidates for a gradient of many images, by :mod:`attacks.identification.whitening`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.base import Observation, Progress
from attacks.engine import memory
from attacks.engine.per_image import PerImage
from attacks.engine.rows import FormedRows, Rows, joined
from attacks.identification.candidates import Candidates
from attacks.identification.pools import at_once
from attacks.identification.whitening import Groups, Products, misfits
from attacks.objective.comparison import total
from attacks.reading.labels import as_classes
from defenses.release import Clipped, Form, Intervals, Kept, Scaled
from defenses.stochastic import stochastic_layers
from defenses.support.seeds import derive
from defenses.support.upload import upload

#: Of the mean variance of a parameter's entries, what is added to each: public images do not span all directions. From 1e-1 to 1e-5
#: it changes nothing (LeNet, CIFAR-10, 1,500 public images, B = 8 and 64, untrained and trained).
_RIDGE = 1e-2
#: Of a parameter of which entries were hidden, so many of those that were kept are compared, chosen at random.
_MOST_ENTRIES = 4096


def among_others(observation: Observation, candidates: Candidates, tell: Progress) -> Tensor:
    """Minus the logarithm of the likelihood of each candidate, [N, M], up to a constant.

    The gradient of each image is clipped where that of each was. Where entries were hidden those that were kept are compared; where
    the scale was lost, the shared gradient is brought to its expected length. As many public images are used as the memory holds.

    Raises:
        ValueError: there are no public images.
    """
    if candidates.public_images is None or len(candidates.public_images) < 2:
        raise ValueError("the candidates of a gradient of more than one image need public images, which tell of the others")
    return _Batches(observation, candidates).scores(tell)


@dataclass(frozen=True)
class _Seen:
    """What is compared of a parameter: ``shared`` [N, *shape], with noise of ``variance``, where ``mask`` is true; None for
    everywhere. ``scaled`` says whether the scale is known."""

    shared: Tensor
    variance: float
    mask: Tensor | None
    scaled: bool


class _Batches:

    def __init__(self, observation: Observation, candidates: Candidates) -> None:
        assert candidates.public_images is not None and candidates.public_labels is not None
        self._observation, self._candidates = observation, candidates
        forms = {name: form for name, release in observation.releases().items() if (form := release.form) is not None}
        self._seen = {name: _seen(observation.shared[name], form) for name, form in forms.items()}
        clips = {stage for form in forms.values() for stage in form.before if isinstance(stage, Clipped)}
        self._clip = next((clip for clip in clips if len(clips) == 1 and clip.images == observation.batch_size
                           and set(clip.names) == set(forms)), None)
        self._free_scale = (bool(clips) and self._clip is None) or not all(seen.scaled for seen in self._seen.values())
        self._compute = PerImage(observation)
        bytes_each = self._compute.bytes_per_image()
        self._at_once = at_once(bytes_each, observation.device)
        count = max(2, memory.budget(observation.device) // max(1, bytes_each))
        labels = candidates.public_labels[:count]
        self._public = self._rows(candidates.public_images[:count], labels, sampled=True)
        # Which others there are depends on the class of the candidate. Under the covariances of classes, scores of candidates of
        # several are not alike: of 16 batches of 8 in a pool of 200 of all classes (LeNet, CIFAR-10, 1,000 public images) the first
        # 8 hold 0.89 of the images, under one covariance for all 1.00.
        of_pools = candidates.labels[candidates.pools]
        alike = bool((of_pools == of_pools[:, :1]).all())
        self._groups = _groups(labels, observation.labels if alike else None)
        self._bases = {name: self._base(name) for name in self._seen}

    def scores(self, tell: Progress) -> Tensor:
        pools = self._candidates.pools
        hidden = any(seen.mask is not None for seen in self._seen.values())
        products_of = self._at_kept_entries if hidden else self._everywhere(tell)
        found = []
        for victim in range(len(pools)):
            products = products_of(victim)
            if hidden or not victim:
                centred = self._groups.centred_gram(products.public)
            found.append(misfits(products, centred, self._groups, self._others(victim), self._observation.batch_size,
                                 free_scale=self._free_scale))
            tell(len(pools) + victim + 1, 2 * len(pools))
        return torch.stack(found)

    def _everywhere(self, tell: Progress) -> Callable[[int], Products]:
        """The products of each victim, from those of all."""
        candidates, shared = self._candidates, {name: seen.shared for name, seen in self._seen.items()}
        public, public_shared = self._gram(self._public, self._public), self._products(self._public, shared)
        own = total([g.flatten(1).double().square().sum(1) / self._bases[name] for name, g in shared.items()])
        blocks = []
        for start in range(0, len(candidates.images), self._at_once):
            some = slice(start, start + self._at_once)
            rows = self._rows(candidates.images[some], candidates.labels[some])
            blocks.append((self._gram(self._public, rows), self._squared(rows)[None], self._products(rows, shared)))
            tell(start, 2 * len(candidates.images))
        by_public, squared, by_shared = (torch.cat(parts, 1) for parts in zip(*blocks, strict=True))

        def of(victim: int) -> Products:
            pool = candidates.pools[victim]
            return Products(public, by_public[:, pool], public_shared[victim], squared[0, pool], by_shared[victim, pool],
                            own[victim])

        return of

    def _at_kept_entries(self, victim: int) -> Products:
        """The products of a victim over the entries that were kept of it."""
        candidates, pool = self._candidates, self._candidates.pools[victim]
        places = {name: self._places(seen, victim) for name, seen in self._seen.items()}
        blocks = []
        for some in pool.split(self._at_once):
            rows = self._rows(candidates.images[some], candidates.labels[some])
            blocks.append({name: FormedRows(rows[name].entries(at)) for name, at in places.items()})
        own = {name: joined([block[name] for block in blocks]) for name in places}
        public = {name: FormedRows(self._public[name].entries(at)) for name, at in places.items()}
        shared = {name: self._seen[name].shared[victim].flatten()[None] for name in places}
        shared = {name: g if places[name] is None else g[:, places[name]] for name, g in shared.items()}
        return Products(self._gram(public, public), self._gram(public, own), self._products(public, shared)[0], self._squared(own),
                        self._products(own, shared)[0],
                        total([g.double().square().sum() / self._bases[name] for name, g in shared.items()]))

    def _places(self, seen: _Seen, victim: int) -> Tensor | None:
        if seen.mask is None:
            return None
        kept = seen.mask[victim].flatten().nonzero().flatten()
        if len(kept) <= _MOST_ENTRIES:
            return kept
        generator = torch.Generator("cpu").manual_seed(0)
        chosen = torch.randperm(len(kept), generator=generator, device="cpu")[:_MOST_ENTRIES]
        return kept[upload(chosen, kept.device)]

    def _others(self, victim: int) -> Tensor:
        """How many of the other images behind a gradient are of each group of public images. The class of the target is that of its
        candidates, if there are groups."""
        labels, groups = self._observation.labels, len(self._groups.sizes)
        if labels is None or groups == 1:
            return self._groups.sizes.new_full((1,), self._observation.batch_size - 1)
        counts = torch.bincount(as_classes(labels)[victim], minlength=groups).double()
        target = self._candidates.labels[self._candidates.pools[victim, 0]]
        return (counts - F.one_hot(target, max(groups, int(target) + 1))[:groups]).clamp_min(0)

    def _rows(self, images: Tensor, labels: Tensor, sampled: bool = False) -> dict[str, Rows]:
        """The gradients that enter the mean over images; of a model that samples, under codes that are ``sampled``, or under the
        means of the codes."""
        layers = list(stochastic_layers(self._observation.module).values()) if sampled else []
        generators = [torch.Generator("cpu").manual_seed(derive("public", i)) for i in range(len(layers))]
        blocks = []
        for some, of in zip(images.split(self._at_once), labels.split(self._at_once), strict=True):
            noise = [upload(torch.randn((len(some), layer.size), generator=generator, device="cpu"), some.device).to(some.dtype)
                     for layer, generator in zip(layers, generators, strict=True)]
            blocks.append(self._compute(some, of, noise or None))
        rows = {name: joined([block[name] for block in blocks]) for name in self._seen}
        if self._clip is None:
            return rows
        factor = self._clip.factor(reduce(torch.add, (of.squared().double() for of in rows.values())))
        return {name: of.scaled(factor.to(of.tensors[0].dtype)) for name, of in rows.items()}

    def _base(self, name: str) -> float:
        """The variance of each entry of a parameter that is not that of the span of public gradients."""
        rows, batch = self._public[name], self._observation.batch_size
        everything = Groups(torch.zeros_like(self._groups.of))
        spread = everything.centred_gram(rows.gram(rows)).diagonal().mean() / self._observation.shared[name][0].numel()
        return max(self._seen[name].variance + _RIDGE * float(spread) * (batch - 1) / batch**2, torch.finfo(torch.float32).tiny)

    def _gram(self, a: Mapping[str, Rows], b: Mapping[str, Rows]) -> Tensor:
        return total([a[name].gram(b[name]) / base for name, base in self._bases.items()])

    def _products(self, rows: Mapping[str, Rows], shared: Mapping[str, Tensor]) -> Tensor:
        return total([rows[name].products(shared[name]).double() / base for name, base in self._bases.items()])

    def _squared(self, rows: Mapping[str, Rows]) -> Tensor:
        return total([rows[name].squared().double() / base for name, base in self._bases.items()])


def _groups(public: Tensor, labels: Tensor | None) -> Groups:
    """Public images by their classes; one group where labels are not known, or where there are too few images of some class."""
    if labels is None:
        return Groups(torch.zeros_like(public))
    present = as_classes(labels).flatten()
    sizes = torch.bincount(public, minlength=int(present.max()) + 1)
    return Groups(public if bool((sizes[present] > 1).all()) else torch.zeros_like(public))


def _seen(shared: Tensor, form: Form) -> _Seen:
    stages = (*form.before, *form.after)
    factor = math.prod(stage.factor for stage in stages if isinstance(stage, Scaled))
    later = math.prod(stage.factor for stage in form.after if isinstance(stage, Scaled))
    variance = 0.0 if form.noise is None else form.noise.variance * later**2 / factor**2
    variance += sum((stage.below + stage.above) ** 2 / 12 for stage in stages if isinstance(stage, Intervals))
    masks = [stage.mask for stage in stages if isinstance(stage, Kept) and stage.mask is not None]
    mask = reduce(torch.logical_and, masks) if masks else None
    return _Seen(shared if factor == 1 else shared / factor, variance, mask,
                 all(isinstance(stage, (Scaled, Intervals, Kept, Clipped)) for stage in stages))
