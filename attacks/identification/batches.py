"""Candidates for a gradient of many images, by :mod:`attacks.identification.whitening`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.base import Observation, Progress
from attacks.engine import memory
from attacks.engine.per_image import PerImage
from attacks.engine.rows import FormedRows, Rows, joined, squared_norms
from attacks.identification.candidates import Candidates
from attacks.identification.features import fresh_noise
from attacks.identification.pools import at_once, over_choices
from attacks.identification.whitening import FewEntries, Public
from attacks.objective.comparison import total
from attacks.reading.labels import as_classes
from attacks.reading.layers import told_by_codes
from defenses.choices import changed_by
from defenses.release import Form, Release
from defenses.stages import Clipped, Intervals, Kept, Projected, Scaled, Stage
from defenses.support.seeds import derive
from defenses.support.upload import upload

#: Of the mean variance of a parameter's entries, what is added to each: public images do not span all directions. From 1e-1 to 1e-5
#: it changes who is first for at most one victim of 60 (LeNet, CIFAR-10, 1,500 public images, B = 8 and 64, untrained and trained).
_RIDGE = 1e-2
#: Of a parameter of which entries were hidden, so many of those that were kept are compared, chosen at random.
_MOST_ENTRIES = 4096
#: The covariance is formed where there are so many times as many public images as entries.
_FEW = 2
#: By so many standard deviations of the noise a squared length has to stand out for the scale to be told from it.
_CERTAIN = 10.0


def among_others(observation: Observation, candidates: Candidates, seed: int, tell: Progress) -> Tensor:
    """Minus the logarithm of the likelihood of each candidate, [N, M], up to a constant.

    The gradient of each image is clipped where that of each was. Where entries were hidden those that were kept are compared, and
    where directions were cut off, the others; where the scale was lost, of a parameter or of several together, the shared gradient
    is brought to its expected length. As many public images are used as the memory holds.

    Raises:
        ValueError: there are no public images.
    """
    if candidates.public_images is None or len(candidates.public_images) < 2:
        raise ValueError("the candidates of a gradient of more than one image need public images, which tell of the others")
    return _Batches(observation, candidates, seed).scores(tell)


def comparable(observation: Observation) -> bool:
    """Whether there is a parameter that is near to the clean gradient, but for known noise and hidden entries."""
    return any(_seen(observation.shared[name], form) is not None for name, form in _forms(observation).items())


def _forms(observation: Observation) -> dict[str, Form]:
    """Of parameters whose release has one; what was projected hardly ever is taken for what was shared always."""
    releases = {name: Release(tuple(stage for stage in release.stages if not isinstance(stage, Projected)))
                for name, release in observation.releases().items()}
    return {name: form for name, release in releases.items() if (form := release.form) is not None}


@dataclass(frozen=True)
class _Seen:
    """What is compared of a parameter: ``shared`` [N, *shape], where ``mask`` is true, and of that what ``last`` shows; None for
    all. It has noise of ``variance``, [N] where that is not the same for all victims. ``scaled`` says whether the scale is known,
    and ``across`` what share of the energy is not along what was shared."""

    shared: Tensor
    variance: float | Tensor
    mask: Tensor | None
    scaled: bool
    across: float
    last: Stage | None


class _Batches:

    def __init__(self, observation: Observation, candidates: Candidates, seed: int) -> None:
        assert candidates.public_images is not None and candidates.public_labels is not None
        self._observation, self._candidates = observation, candidates
        forms = _forms(observation)
        self._seen = {name: seen for name, form in forms.items() if (seen := _seen(observation.shared[name], form)) is not None}
        if observation.mixing is not None and observation.mixing.concealing:
            # Of the images that the gradient is a mean over, one in so many is the client's.
            count = 1 + observation.mixing.concealing
            self._seen = {name: replace(seen, shared=count * seen.shared, variance=count**2 * seen.variance)
                          for name, seen in self._seen.items()}
        clips = {stage for form in forms.values() for stage in form.before if isinstance(stage, Clipped)}
        self._clip = next((clip for clip in clips if len(clips) == 1 and clip.images == observation.batch_size
                           and set(clip.names) == set(forms)), None)
        #: The parameters whose scale was lost, together with that of others or by itself.
        together = tuple(name for name, seen in self._seen.items() if seen.scaled and self._clip is None and any(
            isinstance(stage, Clipped) for stage in forms[name].before))
        self._free = [(name,) for name, seen in self._seen.items() if not seen.scaled] + [together] * bool(together)
        self._compute = PerImage(observation)
        # Who does not know that a layer samples has what it samples.
        self._fresh = fresh_noise(observation, seed) if observation.defense is None else []
        bytes_each = self._compute.bytes_per_image()
        self._at_once = at_once(bytes_each, observation.device)
        count = max(2, memory.budget(observation.device) // max(1, bytes_each))
        labels = candidates.public_labels[:count]
        self._by_class = observation.labels is not None and _enough(labels, as_classes(observation.labels), candidates.labels)
        self._groups = self._group(labels)
        public = self._rows(_changed(observation, candidates.public_images[:count]), labels, sampled=True)
        # What all gradients have in common is taken off, so that products in float32 tell apart what is left. Where the scale
        # of what was shared is not known, it cannot be.
        self._expect_length(public, next(iter(clips)) if len(clips) == 1 and together else None)
        self._middle = {name: rows.mean() for name, rows in public.items()
                        if isinstance(rows, FormedRows) and not any(name in names for names in self._free)}
        self._public = self._less_middle(public)
        self._energies = {name: _energies(rows) for name, rows in self._public.items()}
        #: Products of the public gradients with each other, by parameters that are compared as wholes, for all victims.
        self._grams: dict[tuple[str, ...], Tensor] = {}

    def _expect_length(self, public: Mapping[str, Rows], clip: Clipped | None) -> None:
        """Undo what clipping is expected to have done to noisy gradients that were clipped as wholes, of one client or of several:
        how long they were before, public images tell."""
        if clip is None or set(clip.names) != set(self._seen) or not any(isinstance(seen.variance, float) and seen.variance
                                                                        for seen in self._seen.values()):
            return
        each, squared = self._observation.batch_size / clip.images, 0.0
        for rows in public.values():
            middle, spread = _energies(rows)
            squared += len(rows.mean()) * (middle + spread / each)
        factor = min(1.0, clip.norm / math.sqrt(squared)) if squared else 1.0
        self._seen = {name: replace(seen, shared=seen.shared / factor, variance=seen.variance / factor**2)
                      for name, seen in self._seen.items()}

    def scores(self, tell: Progress) -> Tensor:
        if any(seen.mask is not None or seen.last is not None or isinstance(seen.variance, Tensor) for seen in self._seen.values()):
            return self._one_by_one(tell)
        candidates = self._candidates
        score = self._prepared(slice(None), dict.fromkeys(self._seen, _all))
        scores = []
        for images, labels in zip(candidates.images.split(self._at_once), candidates.labels.split(self._at_once), strict=True):
            scores.append(score(images, labels))
            tell(sum(part.shape[1] for part in scores), len(candidates.images))
        return torch.cat(scores, 1).gather(1, candidates.pools)

    def _one_by_one(self, tell: Progress) -> Tensor:
        """Where other entries or directions were kept of each victim, over those that were, or the noise is another."""
        candidates, found = self._candidates, []
        for victim, pool in enumerate(candidates.pools):
            score = self._prepared(slice(victim, victim + 1), {name: _part(seen, victim) for name, seen in self._seen.items()})
            blocks = [score(candidates.images[some], candidates.labels[some]) for some in pool.split(self._at_once)]
            found.append(torch.cat(blocks, 1))
            tell(victim + 1, len(candidates.pools))
        return torch.cat(found)

    def _prepared(self, victims: slice, parts: Mapping[str, Callable[[Rows], Rows]]) -> Callable[[Tensor, Tensor], Tensor]:
        """From images and labels of candidates to their scores for some victims [V, K], over parts of the gradients."""
        counts, bases = self._counts(victims), {name: self._base(name, victims) for name in parts}
        own = {name: part(self._public[name]) for name, part in parts.items()}
        shared = {name: self._shared(name, victims, part) for name, part in parts.items()}
        for names in self._free:  # so that |G|^2 is what is expected
            of_names = {name: bases[name] for name in names}
            alone = self._whitening(own, {name: shared[name] for name in names}, of_names, parts)
            noise = {name: self._variance(name, victims) / base for name, base in of_names.items()}
            sizes = {name: shared[name][0].numel() for name in names}
            squared = total([squared_norms(shared[name]) / base for name, base in of_names.items()]) - sum(
                sizes[name] * noise[name] for name in names)
            # Where the length is lost in the noise, it is taken for what it is.
            least = _CERTAIN * math.sqrt(2 * sum(sizes[name] * noise[name] ** 2 for name in names))
            scale = (alone.expected_square(counts) / squared.clamp_min(torch.finfo(squared.dtype).tiny)).sqrt()
            scale = torch.where(squared > least, scale, 1.0)
            for name in names:
                of = shared[name]
                shared[name] = of * scale.to(of.dtype).view(-1, *[1] * (of.dim() - 1))
        public = self._whitening(own, shared, bases, parts)
        if isinstance(public, FewEntries):
            given = _entries({name: FormedRows(of.flatten(1)) for name, of in shared.items()}, bases)
        else:
            given = _products(own, shared, bases).mT

        def score(images: Tensor, labels: Tensor) -> Tensor:
            rows = {name: parts[name](of) for name, of in self._less_middle(self._rows(images, labels)).items()}
            if isinstance(public, FewEntries):
                return public.misfits(_entries(rows, bases), self._group(labels), given, counts)
            squared = total([rows[name].squared().double() / base for name, base in bases.items()])
            whitened = public.candidates(_gram(own, rows, bases), squared, self._group(labels))
            return public.misfits(whitened, given, _products(rows, shared, bases), counts)

        return over_choices(self._observation.choices, score)

    def _whitening(self, own: Mapping[str, Rows], shared: Mapping[str, Tensor], bases: Mapping[str, float],
                   parts: Mapping[str, Callable[[Rows], Rows]]) -> Public | FewEntries:
        """By the public gradients, in the form that takes less; what was shared tells how many entries are compared."""
        if _FEW * sum(of[0].numel() for of in shared.values()) <= len(self._groups):
            return FewEntries(_entries(own, bases), self._groups, self._observation.batch_size)
        whole = tuple(name for name in bases if parts[name] is _all and isinstance(self._seen[name].variance, float))
        if whole and whole not in self._grams:
            self._grams[whole] = _gram(own, own, {name: bases[name] for name in whole})
        others = {name: base for name, base in bases.items() if name not in whole}
        grams = [self._grams[whole]] if whole else []
        return Public(total([*grams, _gram(own, own, others)] if others else grams), self._groups, self._observation.batch_size)

    def _shared(self, name: str, victims: slice, part: Callable[[Rows], Rows]) -> Tensor:
        g = self._seen[name].shared[victims]
        g = g if name not in self._middle else g - self._middle[name].view(g.shape[1:])
        return g if part is _all else part(FormedRows(g.flatten(1))).entries(None)

    def _group(self, labels: Tensor) -> Tensor:
        return labels if self._by_class else torch.zeros_like(labels)

    def _counts(self, victims: slice) -> Tensor:
        """How many images of each group are behind a gradient, [V, groups]."""
        if not self._by_class:
            count = len(self._candidates.pools[victims])
            return torch.full((count, 1), self._observation.batch_size, dtype=torch.float64, device=self._groups.device)
        assert self._observation.labels is not None
        return F.one_hot(as_classes(self._observation.labels[victims]), int(self._groups.max()) + 1).sum(1).double()

    def _rows(self, images: Tensor, labels: Tensor, sampled: bool = False) -> dict[str, Rows]:
        """The gradients that enter the mean over images; of a model that samples, under codes that are ``sampled``, or under the
        means of the codes, of which a blind attacker does not know. Where codes tell of the features, these means are closer (half
        of the features dropped, untrained LeNet, 4 CIFAR-10 images a gradient, 16 victims among 100: first 0.94, sampled 0.75)."""
        sampled = sampled and not told_by_codes(self._observation)
        shapes = self._observation.sample_shapes if sampled else []
        generators = [torch.Generator("cpu").manual_seed(derive("public", i)) for i in range(len(shapes))]
        blocks = []
        for some, of in zip(images.split(self._at_once), labels.split(self._at_once), strict=True):
            noise = [upload(torch.randn((len(some), *shape), generator=generator, device="cpu"), some.device).to(some.dtype)
                     for shape, generator in zip(shapes, generators, strict=True)]
            samples = (self._observation.samples_of(noise) if sampled
                       else [draw.expand(len(some), *draw.shape[1:]) for draw in self._fresh])
            blocks.append(self._compute(some, of, samples or None))
        rows = {name: joined([block[name] for block in blocks]) for name in self._seen}
        if self._clip is None:
            return rows
        factor = self._clip.factor(reduce(torch.add, (of.squared().double() for of in rows.values())))
        return {name: of.scaled(factor.to(of.tensors[0].dtype)) for name, of in rows.items()}

    def _less_middle(self, rows: Mapping[str, Rows]) -> dict[str, Rows]:
        return {name: FormedRows(of.values - self._middle[name]) if isinstance(of, FormedRows) and name in self._middle else of
                for name, of in rows.items()}

    def _variance(self, name: str, victims: slice) -> float:
        """Of the noise, of all victims or of one."""
        variance = self._seen[name].variance
        return float(variance[victims]) if isinstance(variance, Tensor) else variance

    def _base(self, name: str, victims: slice) -> float:
        """The variance of each entry of a parameter that is not that of the span of public gradients, of all victims or of one."""
        batch, seen, (middle, spread) = self._observation.batch_size, self._seen[name], self._energies[name]
        variance = self._variance(name, victims)
        across = seen.across * (middle + spread / batch)
        return max(variance + across + _RIDGE * spread * (batch - 1) / batch**2, torch.finfo(torch.float32).tiny)


def _energies(public: Rows) -> tuple[float, float]:
    """Of an entry the square of the mean over images, and the variance."""
    mean = public.mean()
    middle = float(mean.double().square().sum()) / len(mean)
    return middle, float(public.squared().double().mean()) / len(mean) - middle


def _entries(rows: Mapping[str, Rows], bases: Mapping[str, float]) -> Tensor:
    """Of all parameters side by side, in units of the noise, [K, n] in float64."""
    return torch.cat([rows[name].entries(None).double() / math.sqrt(base) for name, base in bases.items()], 1)


def _gram(a: Mapping[str, Rows], b: Mapping[str, Rows], bases: Mapping[str, float]) -> Tensor:
    """Of rows with others, in units of the noise; those that are formed side by side, as one product."""
    formed = [name for name in bases if isinstance(a[name], FormedRows)]
    grams = [a[name].gram(b[name]) / base for name, base in bases.items() if name not in formed]
    if formed:
        joint = [torch.cat([rows[name].entries(None) / math.sqrt(bases[name]) for name in formed], 1) for rows in (a, b)]
        grams.append(FormedRows(joint[0]).gram(FormedRows(joint[1])))
    return total(grams)


def _products(rows: Mapping[str, Rows], shared: Mapping[str, Tensor], bases: Mapping[str, float]) -> Tensor:
    return total([rows[name].products(shared[name]).double() / base for name, base in bases.items()])


def _changed(observation: Observation, images: Tensor) -> Tensor:
    """Public images as clients train on them, each under a choice that is drawn for it."""
    if not observation.choices:
        return images
    generator = torch.Generator("cpu").manual_seed(derive("public", "choices"))
    probabilities = torch.tensor([choice.probability for choice in observation.choices], device="cpu")
    drawn = torch.multinomial(probabilities, len(images), replacement=True, generator=generator)
    return changed_by(observation.choices, images, drawn)


def _enough(public: Tensor, *classes: Tensor) -> bool:
    """Whether there are public images of all classes, of one of them two."""
    present = torch.cat([labels.flatten() for labels in classes])
    sizes = torch.bincount(public, minlength=int(present.max()) + 1)
    return bool((sizes[present] > 0).all()) and bool((sizes > 1).any())


def _all(rows: Rows) -> Rows:
    return rows


def _part(seen: _Seen, victim: int) -> Callable[[Rows], Rows]:
    """What is compared of a parameter's gradients, of a victim."""
    if seen.mask is not None:
        places = _places(seen.mask[victim])
        return lambda rows: FormedRows(rows.entries(places))
    if seen.last is not None:
        left = seen.shared[victim][None]
        part = seen.last.shown(left)
        return _all if part is None else lambda rows: FormedRows(part(rows.entries(None).unflatten(1, left.shape[1:])).flatten(1))
    return _all


def _places(mask: Tensor) -> Tensor:
    """The entries that are compared of those of a mask."""
    kept = mask.flatten().nonzero().flatten()
    if len(kept) <= _MOST_ENTRIES:
        return kept
    generator = torch.Generator("cpu").manual_seed(0)
    return kept[upload(torch.randperm(len(kept), generator=generator, device="cpu")[:_MOST_ENTRIES], kept.device)]


def _seen(shared: Tensor, form: Form) -> _Seen | None:
    """How a parameter is compared, None where it cannot be."""
    stages = (*form.before, *form.after)
    factor = math.prod(stage.factor for stage in stages if isinstance(stage, Scaled))
    later = math.prod(stage.factor for stage in form.after if isinstance(stage, Scaled))
    variance: float | Tensor = 0.0 if form.noise is None else form.noise.variance * later**2 / factor**2
    if form.own is not None:
        if (of_stage := form.own.as_noise(shared / later)) is None:
            return None
        variance = of_stage * later**2 / factor**2
    variance += sum((stage.below + stage.above) ** 2 / 12 for stage in stages if isinstance(stage, Intervals))
    masks = [stage.mask for stage in stages if isinstance(stage, Kept) and stage.mask is not None]
    if form.own is not None and (seen := form.own.seen(shared / later)) is not None:
        masks.append(seen)
    mask = reduce(torch.logical_and, masks) if masks else None
    clean = shared if factor == 1 else shared / factor
    last = next((stage for stage in reversed(stages) if not isinstance(stage, Scaled)), None)
    if last is None or form.noise is not None or type(last).shown is Stage.shown:
        last = None
    across = max((stage.across for stage in stages), default=0.0)
    return _Seen(clean, variance, mask, not any(stage.loses_scale for stage in stages), across, last)
