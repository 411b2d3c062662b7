"""What a leaderboard consists of: boards of families of defenses, and of their entries. This is also the form of its JSON
documents; annotations carry what is checked when one is read. How families are ranked is in :mod:`reports.families`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

from benchmark.specification import AS_TRAINED, STRICT, Evaluation, Mode, PositiveInt, Training, Tuning
from reports.entries import COMPARED, Entry, IdentificationResult, Name, PoolSize, Share, Text
from reports.statistics import Estimate


@dataclass(frozen=True)
class Thresholds:
    """What is called safe, and what free.

    A strength is safe where the one-sided upper 95 % limits of the worst-case ASR and of top-1 are at most ``asr`` and
    1/M + ``above_chance`` in pools of M = ``candidates``, or all where there are fewer; fewer than ``victims``, of whom none
    leaked, are not enough to say so of the ASR. Its privacy is free where it loses at most ``loss`` of the undefended model's test
    accuracy.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    asr: Share = 0.05
    above_chance: Share = 0.05
    candidates: PoolSize = COMPARED
    victims: PositiveInt = 59
    loss: Share = 0.02

    def top1(self, size: int) -> float:
        """The most top-1 among so many candidates that is safe."""
        return 1 / size + self.above_chance


def _ours(thresholds: Thresholds) -> Thresholds:
    if thresholds != Thresholds():
        raise ValueError(f"must be {Thresholds()}, by which all leaderboards are ranked")
    return thresholds


def _in_any_seeds(evaluation: Evaluation) -> Evaluation:
    return evaluation.model_copy(update={"attack_seeds": None})


@dataclass(frozen=True)
class Protocol:
    """All that makes numbers comparable: the data, the training and its tuning (None: all train alike), the observation, the
    attacks, the version of their portfolio and of the scores of reconstructions, and by what is ranked. Not in which seeds: how
    many there were, and how many images were rebuilt, is told of each entry."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    training: Training
    tuning: Tuning | None
    evaluation: Annotated[Evaluation, AfterValidator(_in_any_seeds)]
    attacks: tuple[Name, ...]
    image_size: PositiveInt | None
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    portfolio: PositiveInt
    thresholds: Annotated[Thresholds, AfterValidator(_ours)] = Thresholds()


@dataclass(frozen=True)
class Standing:
    """What a family reaches where gradients of one mode are observed.

    ``safe`` is of its safe strengths the defense of the best ``validation`` accuracy (of the best test accuracy, where nothing was
    tuned; then None), and ``accuracy`` its test accuracy, the family's safe accuracy; None where no strength is safe.
    ``estimated``: no defense of the board has enough victims, so that the estimates take the place of their limits.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    observed: Mode
    safe: Name | None = None
    accuracy: Estimate | None = None
    validation: Share | None = None
    estimated: bool = False


@dataclass(frozen=True)
class FreePrivacy:
    """Of the strengths that lose next to no accuracy the one that leaks least, in the mode by which is ranked: its worst-case ASR,
    its top-1 among the candidates that are compared (either None where the protocol has none), and its test accuracy."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    defense: Name
    asr: Estimate | None
    top1: Estimate | None
    accuracy: Estimate

    @property
    def leakage(self) -> float:
        """The higher of both."""
        return max(each.mean for each in (self.asr, self.top1) if each is not None)


@dataclass(frozen=True)
class Family:
    """Defenses that differ in one ``parameter`` alone, in the order in which their strengths were given, or a single one (None).

    ``standings`` has one per observed mode; ``leakage`` is the least of any strength. Strengths at chance, of which ``at_chance``
    says that there are no others, count nowhere. ``rank`` is None of a family of which nothing that counts was measured.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Name
    parameter: Name | None
    defenses: Annotated[list[Name], Field(min_length=1)]
    rank: PositiveInt | None = None
    standings: list[Standing] = field(default_factory=list)
    free: FreePrivacy | None = None
    leakage: Share | None = None
    at_chance: bool = False
    submission: Text = ""

    def standing(self, mode: str) -> Standing:
        """That of a mode."""
        return next((standing for standing in self.standings if standing.observed == mode), Standing(mode))


@dataclass(frozen=True)
class Board:
    """All defenses of a data set and model that were measured alike: ``families`` best first, and ``entries`` in their order,
    within a family in that of its strengths. ``undefended`` is the defense that is the plain client, with which the others are
    compared; None where it was not part of the grid."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dataset: Name
    model: Name
    protocol: Protocol
    undefended: Name | None
    families: list[Family]
    entries: list[Entry]

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.model}"

    @property
    def observed(self) -> list[str]:
        """Of how many images gradients are observed: its modes."""
        return list(self.protocol.evaluation.observed)

    @property
    def ranked_by(self) -> str:
        """The mode by which is ranked."""
        return AS_TRAINED if AS_TRAINED in self.observed else self.observed[0]

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

    @property
    def too_few_victims(self) -> bool:
        """Whether it is ranked by estimates, since no defense has enough victims."""
        return any(family.standing(self.ranked_by).estimated for family in self.families)

    def members(self, family: Family) -> list[Entry]:
        """The entries of one of the families, in the order of its strengths."""
        found = {entry.defense: entry for entry in self.entries if entry.submission == family.submission}
        return [found[defense] for defense in family.defenses if defense in found]

    def family(self, entry: Entry) -> Family:
        """That of one of the entries."""
        return next(family for family in self.families if (family.name, family.submission) == (entry.family, entry.submission))

    def identification(self, entry: Entry) -> IdentificationResult | None:
        """Of one of the entries the identification that counts: by an attacker who knows the defense, where such were measured."""
        return entry.identified_blindly if self.only_blind else entry.identified
