"""Ranking candidates by what an observation tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from attacks.base import Observation, Progress
from attacks.engine.per_image import PerImage
from attacks.engine.per_update import PerUpdate
from attacks.engine.rows import Rows, squared_norms
from attacks.identification.batches import among_others, comparable
from attacks.identification.candidates import Candidates
from attacks.identification.features import by_features, by_replayed_codes, exact_features, fresh_noise
from attacks.identification.likelihood import ImageLikelihood
from attacks.identification.mixtures import by_mixture, mixed_method
from attacks.identification.pools import of_victims, over_choices, scored
from attacks.identification.simulation import by_simulation
from attacks.objective.comparison import root, total
from attacks.reading.layers import replay_obstacle
from defenses.stages import Clipped, Noise, OwnLikelihood, Scaled
from defenses.support.seeds import derive


class Method(NamedTuple):
    """How candidates are compared; ``exact`` says whether by the likelihood itself, so that no attacker does better against that
    pool (Bayes)."""

    name: str
    exact: bool


class Identifier:
    """Scores of candidate images for each victim of an observation: which of them was it?

    A blind attacker takes the gradient for clean, and goes by the cosine where it is of one image. An informed one goes by the
    releases of the defense, and by them alone:

    - ``exact``, ``likelihood``: of one image, without and with noise (:mod:`attacks.identification.likelihood`);
    - ``features``: where a layer samples, by what entered it, where that can be read; ``replayed``: where it is read with noise, by
      the gradients under the code that was read with it;
    - ``whitened``: of more images, with the others as noise (:mod:`attacks.identification.whitening`), also where many were mixed;
    - ``span``, ``signless``, ``rebuilt``: of images that were mixed, flipped or concealed, by what of them can be read or rebuilt
      (:mod:`attacks.identification.mixtures`);
    - ``simulated``: where nothing is disclosed, or codes cannot be read (:mod:`attacks.identification.simulation`).

    Of an update of several local steps, candidates are compared by the update that a client with each would share; where gradients
    were clipped in each step, it is simulated with that, and what noise does to later steps is left out. Of a client of more images
    the update is compared to first order: it is taken for the mean of their gradients at the weights that were sent, in which each
    image has the same weight, as it has but for a last epoch that was not completed.

    Where a defense is known to have changed each image by one of some choices, a candidate's likelihood is the mean over these.
    Rounds are averaged where nothing is lost by it, under Gaussian noise; else their scores add up.
    """

    def method(self, observation: Observation) -> Method:
        """How the candidates of an observation are compared."""
        name = self._name(observation)
        exact = name in ("exact", "likelihood") and ImageLikelihood(observation).exact and not _drops(observation.module) and (
            _clip_of_steps(observation) is None)
        return Method(name, exact)

    def _name(self, observation: Observation) -> str:
        if observation.mixing is not None:
            return mixed_method(observation)
        if all(release.form is None for release in observation.releases().values()):
            return "simulated"
        if observation.batch_size > 1:
            return "whitened" if comparable(observation) else "simulated"
        if observation.defense is None:
            return "cosine"
        if observation.stochastic:
            if replay_obstacle(observation) is not None:
                return "simulated"
            return "features" if exact_features(observation) else "replayed"
        stages = (stage for release in observation.releases().values() for stage in release.stages)
        noisy = any(isinstance(stage, (Noise, OwnLikelihood)) for stage in stages)
        return "likelihood" if noisy else "exact"

    def scores(self, observation: Observation, candidates: Candidates, *, seed: int, progress: Progress | None = None) -> Tensor:
        """How unlikely each candidate is to be among the images behind a victim's gradient.

        Args:
            observation: what the server holds.
            candidates: a pool for each victim, and, for gradients of more than one image, public images.
            seed: of what is simulated.
            progress: told of the candidates done.

        Returns:
            [N, M] in float64, lower is likelier; comparable within a victim.

        Raises:
            ValueError: the candidates are not those of the observation, or public images are missing.
        """
        candidates.check(observation)
        totals, seen_apart = [], _apart(observation)
        for number, seen in enumerate(seen_apart):
            def tell(done: int, of: int, before: int = number) -> None:
                if progress is not None:
                    progress(before * of + done, len(seen_apart) * of)

            totals.append(self._scores(seen, candidates, derive(seed, "identification", number), tell))
        return total(totals)

    def _scores(self, observation: Observation, candidates: Candidates, seed: int, tell: Progress) -> Tensor:
        method = self._name(observation)
        if method in ("span", "signless", "rebuilt"):
            return by_mixture(observation, candidates, seed, tell)
        if method == "whitened":
            return among_others(observation, candidates, seed, tell)
        if method == "replayed":
            return by_replayed_codes(observation, candidates, tell)
        if method == "features":
            return by_features(observation, candidates, tell)
        if method == "simulated":
            return by_simulation(observation, candidates, seed, tell)
        compute = PerUpdate(observation, _clip_of_steps(observation)) if observation.local else PerImage(observation)
        compare = _Cosine(observation) if method == "cosine" else ImageLikelihood(observation)
        noise = fresh_noise(observation, seed)

        def score(images: Tensor, labels: Tensor, victims: Tensor) -> Tensor:
            return compare(compute(images, labels, [draw.expand(len(images), *draw.shape[1:]) for draw in noise]), victims)

        return scored(candidates, over_choices(observation.choices, score), compute.bytes_per_image, tell)


def _apart(observation: Observation) -> list[Observation]:
    """The observations whose scores add up."""
    if len(observation.rounds) < 2:
        return [observation]
    if observation.mixing is not None:  # anew in each
        return list(observation.by_round())
    same = all(one.module is observation.rounds[0].module for one in observation.rounds)
    # Asked of single rounds: what a mean of Laplacian noise is said to be is Gaussian.
    stages = [stage for release in observation.releases().values() for stage in release.stages]
    averages = all(stage.distribution == "gaussian" if isinstance(stage, Noise) else isinstance(stage, (Clipped, Scaled))
                   for stage in stages)
    sampled = observation.defense is not None and observation.batch_size == 1 and observation.stochastic
    if same and averages and not sampled and not observation.choices:
        return [observation.averaged()]
    # The other images of a batch are the same in all rounds, so that these do not tell apart what they add.
    return list(observation.by_round()) if observation.batch_size == 1 else [replace(observation, rounds=observation.rounds[:1])]


class _Cosine:
    """Minus the cosine of the whole gradients, [V, K]."""

    def __init__(self, observation: Observation) -> None:
        self._observed = observation.shared
        self._length = root(total([squared_norms(g) for g in observation.shared.values()]))

    def __call__(self, rows: Mapping[str, Rows], victims: Tensor) -> Tensor:
        given = {name: of_victims(g, victims) for name, g in self._observed.items()}
        product = total([rows[name].products(g).double() for name, g in given.items()])
        own = root(total([of.squared().double() for of in rows.values()]))
        return -product / (of_victims(self._length, victims)[:, None] * own)


def _clip_of_steps(observation: Observation) -> Clipped | None:
    """What is known to have been done to the gradient of each of several local steps."""
    stages = (stage for release in observation.releases().values() for stage in release.stages)
    return next((stage for stage in stages if isinstance(stage, Clipped) and stage.steps > 1), None)


def _drops(module: nn.Module) -> bool:
    """Whether a client that trains leaves out activations at random, which nobody else knows."""
    return any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in module.modules())
