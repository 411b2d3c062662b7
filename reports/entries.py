"""What a board has of each defense: how it was tuned and trained, and what the attacks found. This is also the form of its JSON
documents; annotations carry what is checked when one is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from benchmark.specification import STRICT, Count, Mode, Optimizer, PositiveInt, StepSize
from reports.statistics import Estimate, Number, share

Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1, max_length=500)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PoolSize = Annotated[int, Field(ge=2, le=10_000_000)]

#: What is taken of the reconstructions of all attacks, see :mod:`reports.worst_case`.
WORST_CASE: Literal["worst case"] = "worst case"
ORACLE_BOUND: Literal["oracle bound"] = "oracle bound"
#: The size of the pool by which defenses are compared; of a smaller one all candidates.
COMPARED = 100


@dataclass(frozen=True)
class AttackResult:
    """What was rebuilt at one checkpoint from gradients of so many images, over all seeds and victims of an entry: by one attack,
    or by the worst case or the oracle bound, which take for each victim one of the reconstructions of all attacks.

    ``observed`` is the mode, ``batch_size`` how many images are behind a gradient of it, and ``images`` how many were attacked in
    all. ``knowledge`` is what the attacker knows: nothing of the defense (blind), what it discloses (informed), or either, where
    both would compute the same. ``reason`` says why an attack does not apply; the estimates are then None. ``asr`` carries a
    Wilson interval over images, as does ``recovered``, the share at a PSNR above 19 dB (None in documents of versions that did not
    count it); ``ssim``, ``psnr`` and ``lpips`` (None where it was not measured) a bootstrap interval over images.
    ``label_accuracy`` is None where the attacker was given the labels. ``seconds_per_victim`` of the latter two is the sum over the
    attacks, and ``winners`` counts the images for which each was taken.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attack: Name
    kind: Literal["attack", "worst case", "oracle bound"]
    knowledge: Literal["", "blind", "informed", "both"]
    checkpoint_epoch: Count
    observed: Mode
    batch_size: PositiveInt | None = None
    images: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    asr: Estimate | None = None
    recovered: Estimate | None = None
    ssim: Estimate | None = None
    psnr: Estimate | None = None
    lpips: Estimate | None = None
    label_accuracy: Share | None = None
    seconds_per_victim: Positive | None = None
    winners: dict[str, Count] = field(default_factory=dict)
    reason: Text = ""


@dataclass(frozen=True)
class TopOne:
    """The share of victims whose image is named rightly among so many candidates, with a bootstrap interval over victims; Wilson's,
    where each is a hit or a miss."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    size: PoolSize
    rate: Estimate


@dataclass(frozen=True)
class IdentificationResult:
    """How well the victims' images were told from others at one checkpoint, by gradients of so many images, over all seeds and
    victims of an entry.

    ``observed``, ``batch_size`` and ``knowledge`` are as in :class:`AttackResult`. ``method`` is how candidates were scored,
    ``exact`` whether by their exact likelihood, so that no attacker does better against that pool. ``candidates`` is M, the fewest
    of any victim; ``top1`` has rates by rising size of the pool, the last at M, and ``limit`` is the one-sided upper 95 % limit of
    the one that is ``compared``, by bootstrap over victims; ``median_rank`` is out of M. ``bits`` is what the ranks tell at least,
    of log2 M, and ``bits_low`` its lower 95 % limit; ``epsilon_low`` (at the entry's delta, else 1e-5) and ``mu_low`` are the least
    privacy budgets, for the presence of one image, that the rate at M allows at 95 % (:mod:`reports.ranks`). ``mu`` is that of a
    guarantee for what was observed, and ``bound`` the top-1 at M that no attacker exceeds under it; None without one.
    ``label_share`` is the share of labels that this attacker infers rightly, None where they cannot be inferred.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    checkpoint_epoch: Count
    observed: Mode
    batch_size: PositiveInt
    knowledge: Literal["blind", "informed", "both"]
    method: Name
    exact: bool
    candidates: PoolSize
    victims: Annotated[int, Field(ge=1, le=1_000_000_000)]
    top1: Annotated[list[TopOne], Field(min_length=1, max_length=100)]
    limit: Share
    median_rank: Positive
    bits: Positive
    bits_low: Positive
    epsilon_low: Positive
    mu_low: Positive
    mu: Positive | None = None
    bound: Share | None = None
    label_share: Estimate | None = None
    seconds_per_victim: Positive | None = None

    @property
    def at_all(self) -> Estimate:
        """Top-1 among all M candidates."""
        return self.top1[-1].rate

    @property
    def compared(self) -> TopOne:
        """Top-1 among the :data:`COMPARED` candidates by which defenses are compared, or all where there are fewer."""
        return next((point for point in self.top1 if point.size == COMPARED), self.top1[-1])

    def at(self, size: int) -> Estimate | None:
        """Top-1 at a size of the pool, where there is one."""
        return next((point.rate for point in self.top1 if point.size == size), None)


@dataclass(frozen=True)
class Obstacle:
    """Why images were not identified at a checkpoint by gradients of so many images, by an attacker who knows this."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    checkpoint_epoch: Count
    observed: Mode
    knowledge: Literal["blind", "informed"]
    reason: Text


@dataclass(frozen=True)
class Trial:
    """What a training by this optimizer, step size and batch size came to after its last epoch, on training images that were kept
    apart; ``train_loss`` is None where it is no number any more, and ``chosen`` marks the one by which the entry was trained."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    optimizer: Optimizer
    learning_rate: StepSize
    batch_size: PositiveInt
    validation_accuracy: Share
    train_loss: Number | None
    chosen: bool = False

    @property
    def diverged(self) -> bool:
        return self.train_loss is None or not math.isfinite(self.train_loss)


@dataclass(frozen=True)
class Entry:
    """A defense on a board: one strength of its family. Accuracy is that after the last epoch, mean over seeds with a bootstrap
    interval, on ``test_images``, of which ``chance`` have the most frequent class.

    It was trained by ``optimizer``, ``learning_rate`` and ``batch_size``; where these were tuned, ``trials`` is all that was tried,
    in its order, and ``validation`` the accuracy of the trial that was chosen. ``change``, ``time_ratio``, ``memory_ratio`` and
    ``sent_ratio`` compare with the undefended model, the first two of the same seeds; ``converged`` lists, per seed, the epochs to
    converge (None: not reached), of ``rounds_per_epoch``; ``seconds_per_epoch`` is the median over epochs, mean over seeds,
    ``step_memory`` the most bytes that tensors held in a training step, and ``sent_bytes`` those of one shared gradient.
    ``problems`` are the errors of trials and cells that failed, and cells that were not run. ``submission`` and ``paper`` name
    where an entry of a merged leaderboard comes from.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    defense: Name
    family: Name
    parameters: dict[str, Any]
    seeds: Count
    accuracy: Estimate | None = None
    change: Estimate | None = None
    test_images: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    chance: Share | None = None
    converged: list[Count | None] = field(default_factory=list)
    rounds_per_epoch: PositiveInt | None = None
    area: Share | None = None
    epsilon: Positive | None = None
    delta: Share | None = None
    optimizer: Optimizer | None = None
    learning_rate: StepSize | None = None
    batch_size: PositiveInt | None = None
    validation: Share | None = None
    trials: Annotated[list[Trial], Field(max_length=10_000)] = field(default_factory=list)
    seconds_per_epoch: Positive | None = None
    time_ratio: Positive | None = None
    step_memory: Count | None = None
    memory_ratio: Positive | None = None
    sent_bytes: Count | None = None
    sent_ratio: Positive | None = None
    attacks: list[AttackResult] = field(default_factory=list)
    identifications: Annotated[list[IdentificationResult], Field(max_length=10_000)] = field(default_factory=list)
    unidentified: Annotated[list[Obstacle], Field(max_length=10_000)] = field(default_factory=list)
    problems: list[Text] = field(default_factory=list)
    pareto: bool = False
    submission: Text = ""
    paper: Text = ""

    def seen(self, mode: str) -> Entry:
        """The same with what was found by gradients of this mode alone."""
        return replace(self, attacks=[result for result in self.attacks if result.observed == mode],
                       identifications=[result for result in self.identifications if result.observed == mode],
                       unidentified=[obstacle for obstacle in self.unidentified if obstacle.observed == mode])

    @property
    def images(self) -> int:
        """How many images were attacked, over all seeds."""
        return max((result.images for result in self.attacks), default=0)

    @property
    def above_chance(self) -> bool:
        """Whether the model learned anything: the lower end of the 95 % interval of its accuracy, by Wilson over the test images,
        is above what the most frequent class gives."""
        if self.accuracy is None or self.test_images is None or self.chance is None:
            return False
        low = share(round(self.accuracy.mean * self.test_images), self.test_images).low
        return low is not None and low > self.chance

    @property
    def worst_cases(self) -> list[AttackResult]:
        """Those of informed and of blind attackers, at every checkpoint; the latter can be the higher ones, where the images on
        which the former rehearsed mislead."""
        return [result for result in self.attacks if result.kind == WORST_CASE and result.asr is not None]

    @property
    def worst_case(self) -> AttackResult | None:
        """That of informed attackers, at the checkpoint of the highest ASR; of equal ones that with the higher mean SSIM."""
        return _highest(self._of(WORST_CASE, "informed"))

    @property
    def blind(self) -> AttackResult | None:
        """As above, of attackers who know nothing of the defense."""
        return _highest(self._of(WORST_CASE, "blind"))

    @property
    def oracle_bound(self) -> AttackResult | None:
        """As above, of what chooses by looking at the originals. No attacker can; nothing is ranked by it."""
        return _highest(self._of(ORACLE_BOUND, ""))

    def worst_case_at(self, epoch: int) -> AttackResult | None:
        """That of informed attackers, at a checkpoint."""
        return _highest(self._of(WORST_CASE, "informed", epoch))

    def oracle_bound_at(self, epoch: int) -> AttackResult | None:
        """That of a checkpoint."""
        return _highest(self._of(ORACLE_BOUND, "", epoch))

    def _of(self, kind: str, knowledge: str, epoch: int | None = None) -> list[AttackResult]:
        return [result for result in self.attacks
                if (result.kind, result.knowledge) == (kind, knowledge) and epoch in (None, result.checkpoint_epoch)]

    @property
    def identifications_informed(self) -> list[IdentificationResult]:
        """Those that an attacker who knows the defense can make, at every checkpoint. Where it does not have the exact likelihood,
        it may do as well what a blind one does."""
        def place(result: IdentificationResult) -> tuple[str, int]:
            return result.observed, result.checkpoint_epoch

        informed = {place(result) for result in self.identifications if result.knowledge != "blind"}
        exact = {place(result) for result in self.identifications if result.knowledge != "blind" and result.exact}
        return [result for result in self.identifications if result.knowledge != "blind" or place(result) in informed - exact]

    @property
    def identified(self) -> IdentificationResult | None:
        """Of these that of the highest top-1 among the candidates that are compared; of equal ones that of the highest among all,
        and which tells more bits."""
        return max(self.identifications_informed, key=_identification, default=None)

    @property
    def identified_blindly(self) -> IdentificationResult | None:
        """As above, by one who knows nothing of the defense."""
        return max((result for result in self.identifications if result.knowledge != "informed"), key=_identification, default=None)

    @property
    def label_share(self) -> Estimate | None:
        """The highest share of labels that is inferred rightly, at any checkpoint and by whichever attacker."""
        shares = [result.label_share for result in self.identifications if result.label_share is not None]
        return max(shares, key=lambda share: share.mean, default=None)

    @property
    def measured(self) -> tuple[float, float] | None:
        """Test accuracy and worst-case ASR, where there are both."""
        worst = self.worst_case
        if worst is None or worst.asr is None or self.accuracy is None:
            return None
        return self.accuracy.mean, worst.asr.mean


def _highest(results: list[AttackResult]) -> AttackResult | None:
    measured = [result for result in results if result.asr is not None and result.ssim is not None]
    return max(measured, key=lambda result: (result.asr.mean, result.ssim.mean), default=None)  # type: ignore[union-attr]


def _identification(result: IdentificationResult) -> tuple[float, float, float]:
    return result.compared.rate.mean, result.at_all.mean, result.bits
