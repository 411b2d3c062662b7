"""What a leaderboard consists of: boards of entries, each with what the attacks rebuilt. This is also the form of its JSON
documents; annotations carry what is checked when one is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from benchmark.specification import STRICT, Count, Evaluation, PositiveInt, Training
from reports.statistics import Estimate

Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1, max_length=500)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PoolSize = Annotated[int, Field(ge=2, le=10_000_000)]

#: What is chosen among the reconstructions of all attacks, see :mod:`reports.worst_case`.
WORST_CASE: Literal["worst case"] = "worst case"
ORACLE_BOUND: Literal["oracle bound"] = "oracle bound"


@dataclass(frozen=True)
class AttackResult:
    """What was rebuilt at one checkpoint, over all seeds and victims of an entry: by one attack, or by the worst case or the oracle
    bound, which choose per victim among the reconstructions of all attacks.

    ``knowledge`` is what the attacker knows: nothing of the defense (blind), what it discloses (informed), or either, where both
    would compute the same. ``reason`` says why an attack does not apply; the estimates are then None. ``asr`` carries a Wilson
    interval over images, ``ssim`` and ``psnr`` a bootstrap interval over images. ``label_accuracy`` is None where the attacker was
    given the labels. ``seconds_per_victim`` of what chooses is the sum over the attacks that it chose among, and ``winners`` counts
    the images for which each was chosen.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attack: Name
    kind: Literal["attack", "worst case", "oracle bound"]
    knowledge: Literal["", "blind", "informed", "both"]
    checkpoint_epoch: Count
    asr: Estimate | None = None
    ssim: Estimate | None = None
    psnr: Estimate | None = None
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
    """How well the victims' images were told from others at one checkpoint, over all seeds and victims of an entry.

    ``knowledge`` is as in :class:`AttackResult`. ``method`` is how candidates were scored, ``exact`` whether by their exact
    likelihood, so that no attacker does better against that pool. ``candidates`` is M, the fewest of any victim; ``top1`` has rates
    by rising size of the pool, the last at M; ``median_rank`` is out of M. ``bits`` is what the ranks tell at least, of log2 M, and
    ``bits_low`` its lower 95 % limit; ``epsilon_low`` (at the entry's delta, else 1e-5) and ``mu_low`` are the least privacy
    budgets, for the presence of one image, that the rate at M allows at 95 % (:mod:`reports.ranks`). ``mu`` is that of a guarantee
    for what was observed, and ``bound`` the top-1 at M that no attacker exceeds under it; None without one. ``label_share`` is the
    share of labels that this attacker infers rightly, None where they cannot be inferred.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    checkpoint_epoch: Count
    knowledge: Literal["blind", "informed", "both"]
    method: Name
    exact: bool
    candidates: PoolSize
    victims: Annotated[int, Field(ge=1, le=1_000_000_000)]
    top1: Annotated[list[TopOne], Field(min_length=1, max_length=100)]
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

    def at(self, size: int) -> Estimate | None:
        """Top-1 at a size of the pool, where there is one."""
        return next((point.rate for point in self.top1 if point.size == size), None)


@dataclass(frozen=True)
class Obstacle:
    """Why images were not identified at a checkpoint, by an attacker who knows this."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    checkpoint_epoch: Count
    knowledge: Literal["blind", "informed"]
    reason: Text


@dataclass(frozen=True)
class Entry:
    """A defense on a board. Accuracy is that after the last epoch, mean over seeds with a bootstrap interval.

    ``change``, ``time_ratio`` and ``memory_ratio`` compare with the undefended model of the same seeds; ``converged`` lists, per
    seed, the epochs to converge (None: not reached); ``seconds_per_epoch`` is the median over epochs, mean over seeds, and
    ``step_memory`` the most bytes that tensors held in a training step. ``problems`` are the errors of cells that failed, and cells
    that were not run. ``submission`` and ``paper`` name where an entry of a merged leaderboard comes from.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    defense: Name
    parameters: dict[str, Any]
    seeds: Count
    images: Count
    accuracy: Estimate | None = None
    change: Estimate | None = None
    converged: list[Count | None] = field(default_factory=list)
    area: Share | None = None
    epsilon: Positive | None = None
    delta: Share | None = None
    seconds_per_epoch: Positive | None = None
    time_ratio: Positive | None = None
    step_memory: Count | None = None
    memory_ratio: Positive | None = None
    attacks: list[AttackResult] = field(default_factory=list)
    identifications: Annotated[list[IdentificationResult], Field(max_length=10_000)] = field(default_factory=list)
    unidentified: Annotated[list[Obstacle], Field(max_length=10_000)] = field(default_factory=list)
    problems: list[Text] = field(default_factory=list)
    rank: PositiveInt | None = None
    pareto: bool = False
    submission: Text = ""
    paper: Text = ""

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
    def identified(self) -> IdentificationResult | None:
        """By an attacker who knows the defense, at the checkpoint of the highest top-1 among all candidates; of equal ones that
        which tells more bits. Where it does not have the exact likelihood, it may do as well what a blind one does."""
        exact = {result.checkpoint_epoch for result in self.identifications if result.knowledge != "blind" and result.exact}
        informed = {result.checkpoint_epoch for result in self.identifications if result.knowledge != "blind"}
        return max((result for result in self.identifications if result.knowledge != "blind"
                    or result.checkpoint_epoch in informed - exact), key=_identification, default=None)

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


@dataclass(frozen=True)
class Protocol:
    """All that makes numbers comparable: the data, the training, the observation, the attacks, and the version of their portfolio
    and of the score by which the worst case chooses."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    training: Training
    evaluation: Evaluation
    attacks: tuple[Name, ...]
    image_size: PositiveInt | None
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    portfolio: PositiveInt


@dataclass(frozen=True)
class Board:
    """All entries of a data set and model that were measured alike, best first. ``undefended`` is the defense that is the plain
    client, with which the others are compared; None where it was not part of the grid."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dataset: Name
    model: Name
    protocol: Protocol
    undefended: Name | None
    entries: list[Entry]

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.model}"

    @property
    def checkpoints(self) -> list[int]:
        """All checkpoints with a result."""
        return sorted({result.checkpoint_epoch for entry in self.entries for result in entry.attacks})

    @property
    def candidates(self) -> list[int]:
        """M of the identifications, as many as there are different ones; rising."""
        return sorted({result.candidates for entry in self.entries for result in entry.identifications})

    @property
    def only_blind(self) -> bool:
        """Whether attacks were measured, and none by an attacker who knows the defense."""
        return bool(self.checkpoints or self.candidates) and "informed" not in self.protocol.evaluation.knowledge

    def identification(self, entry: Entry) -> IdentificationResult | None:
        """Of one of the entries the identification that counts: by an attacker who knows the defense, where such were measured."""
        return entry.identified_blindly if self.only_blind else entry.identified


def _highest(results: list[AttackResult]) -> AttackResult | None:
    measured = [result for result in results if result.asr is not None and result.ssim is not None]
    return max(measured, key=lambda result: (result.asr.mean, result.ssim.mean), default=None)  # type: ignore[union-attr]


def _identification(result: IdentificationResult) -> tuple[float, float]:
    return result.at_all.mean, result.bits


def ranked(entries: list[Entry]) -> list[Entry]:
    """By the ASR of the worst case, lowest first, then by test accuracy, highest first; what was not measured comes last. Marks
    the Pareto front of both: entries of which no other has at least the accuracy at an ASR no higher, and is better in one."""
    def order(entry: Entry) -> tuple[bool, float, float]:
        worst = entry.worst_case
        asr = worst.asr.mean if worst is not None and worst.asr is not None else 0.0
        return worst is None, asr, -(entry.accuracy.mean if entry.accuracy is not None else 0.0)

    points = {entry.measured for entry in entries} - {None}

    def dominated(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] <= point[1] for other in points if other is not None)

    return [replace(entry, rank=place if entry.worst_case is not None else None,
                    pareto=entry.measured is not None and not dominated(entry.measured))
            for place, entry in enumerate(sorted(entries, key=order), start=1)]
