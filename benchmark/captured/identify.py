"""Ranking the images of a folder by a captured gradient: which of them was it?"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks import Observation, Progress
from attacks.identification import Candidates, Identifier, Method
from attacks.reading.labels import as_classes, known_or_inferred_labels, label_obstacle
from benchmark.captured.candidate_images import NamedImages
from benchmark.captured.limits import require_fits
from benchmark.errors import InputError, shortened
from defenses.support.upload import upload

#: Candidates that are shown of each victim, unless all are asked for.
SHOWN = 20


@dataclass(frozen=True)
class Ranking:
    """The candidates of a victim, the likeliest first.

    Attributes:
        labels: of the images behind the gradient; None where they are not given, and candidates have their own.
        names: of the files.
        classes: under which each candidate was the likeliest.
        scores: how far each is behind the first, in nats, or of a cosine where ``cosine`` is that of the first.
        cosine: None where candidates are compared by a likelihood.
    """

    labels: list[int] | None
    names: list[str]
    classes: list[int]
    scores: list[float]
    cosine: float | None = None


def identify(observation: Observation, images: NamedImages, public: NamedImages | None = None, *, seed: int = 0,
             progress: Progress | None = None) -> tuple[Method, list[Ranking]]:
    """How candidates are compared, and their ranking for each victim.

    Candidates without classes are tried under each class that is among the labels behind a gradient, which are inferred where they
    are not given, and their best score counts.

    Args:
        observation: of a blind or an informed attacker.
        images: the candidates.
        public: of the same distribution; those among the candidates are left out.
        seed: of what is simulated.
        progress: told of the steps done.

    Raises:
        InputError: public images with classes are missing, labels cannot be inferred, or no candidate can be compared.
    """
    identifier = Identifier()
    method = identifier.method(observation)
    with_public = method.name == "whitened"
    if with_public and (public is None or public.labels is None):
        raise InputError(f"a gradient of {observation.batch_size} images needs --public, a folder of other images of the kind, "
                         "CLASS/IMAGE: by them the images beside the candidate are known")
    labels = _labels(observation, images)
    groups = _alike(None if images.labels is not None else labels, len(observation))
    rankings: dict[int, Ranking] = {}
    for number, (classes, places) in enumerate(groups.items()):
        def tell(done: int, of: int, before: int = number) -> None:
            if progress is not None:
                progress(before * of + done, len(groups) * of)

        seen = observation.select(places)
        candidates, under = _candidates(seen, images, classes, public if with_public else None)
        scores = identifier.scores(seen, candidates, seed=seed, progress=tell)
        scores, best = scores.unflatten(1, (-1, len(images))).min(1)
        for place, own, chosen in zip(places, scores.nan_to_num(nan=torch.inf, posinf=torch.inf), best, strict=True):
            of_victim = None if labels is None else labels[place].tolist()
            rankings[place] = _ranking(images, under.gather(0, chosen[None])[0], own, of_victim, cosine=method.name == "cosine")
    return method, [rankings[place] for place in range(len(observation))]


def text(rankings: list[Ranking], shown: int | None) -> str:
    """The rankings for people; of each the first ``shown`` candidates, None for all."""
    return "\n\n".join(_text(victim, ranking, shown) for victim, ranking in enumerate(rankings))


def _labels(observation: Observation, images: NamedImages) -> Tensor | None:
    """[N, B] of the gradients: given, or inferred where candidates need them."""
    if observation.labels is None and images.labels is not None:
        return None
    obstacle = label_obstacle(observation)
    if obstacle is not None:
        raise InputError(f"{obstacle}; put the candidates into folders, CLASS/IMAGE")
    return as_classes(known_or_inferred_labels(observation))


def _alike(labels: Tensor | None, victims: int) -> dict[tuple[int, ...], list[int]]:
    """The places of victims by the classes that are among their labels; () where candidates have their own."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place in range(victims):
        classes = () if labels is None else tuple(sorted(set(labels[place].tolist())))
        groups.setdefault(classes, []).append(place)
    return groups


def _candidates(observation: Observation, images: NamedImages, classes: tuple[int, ...], public: NamedImages | None
                ) -> tuple[Candidates, Tensor]:
    """All images under each of the classes, or under their own, and these classes [L, K]."""
    device, times = observation.device, max(1, len(classes))
    require_fits(f"{len(images)} candidates, each under {times} classes,", 4 * times * images.pixels.size, device)
    if images.labels is not None:
        under = upload(torch.from_numpy(images.labels), device)[None]
    else:
        under = upload(classes, device)[:, None].expand(-1, len(images))
    places = torch.arange(times * len(images), device=device).expand(len(observation), -1)
    extra: tuple[Tensor, ...] = ()
    if public is not None and public.labels is not None:
        others = public.without(images)
        assert others.labels is not None
        if len(others) < 2:
            raise InputError("fewer than two public images are not among the candidates")
        extra = others.normalised(observation), upload(torch.from_numpy(others.labels), device)
    return Candidates(images.normalised(observation).repeat(times, 1, 1, 1), under.flatten(), places, *extra), under


def _ranking(images: NamedImages, classes: Tensor, scores: Tensor, labels: list[int] | None, *, cosine: bool) -> Ranking:
    order = scores.argsort(stable=True)
    first = float(scores[order[0]])
    if first == float("inf"):
        raise InputError("no candidate has a finite score: under these weights and this normalisation their gradients overflow")
    names = [images.names[place] for place in order.tolist()]
    return Ranking(labels, names, classes[order].tolist(), (scores - first)[order].tolist(), -first if cosine else None)


def _text(victim: int, ranking: Ranking, shown: int | None) -> str:
    unit = "nats" if ranking.cosine is None else "cosine"
    head = f"victim {victim}" + ("" if ranking.labels is None else f", {_labelled(ranking.labels)}") + ": "
    head += _printable(ranking.names[0])
    if ranking.cosine is not None:
        head += f" with a cosine of {ranking.cosine:.4g}"
    alike = ranking.scores.count(0)
    if alike > 1:
        head += f", as likely as {alike - 1} other{'s' if alike > 2 else ''}"
    elif len(ranking.names) > 1:
        head += f", ahead of the second by {ranking.scores[1]:.4g}" + (" nats" if ranking.cosine is None else "")
    lines = [head, f"{'rank':>6} {unit + ' behind':>13} {'label':>6}  candidate"]
    rows = list(zip(ranking.scores, ranking.classes, ranking.names, strict=True))
    for score, label, name in rows[:shown]:
        rank = 1 + bisect_left(ranking.scores, score)  # those of equal scores share it
        lines.append(f"{rank:>6} {score:>13.4g} {label:>6}  {_printable(name)}")
    if shown is not None and len(rows) > shown:
        lines.append(f"and {len(rows) - shown} more")
    return "\n".join(lines)


def _labelled(labels: list[int]) -> str:
    return f"label {labels[0]}" if len(labels) == 1 else f"labels {shortened(labels)}"


def _printable(name: str) -> str:
    """A name that a terminal shows as it is."""
    return name if name.isprintable() else repr(name)
