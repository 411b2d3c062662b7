"""What a leaderboard consists of: boards of entries, each with what the attacks rebuilt. This is also the form of its JSON
documents; annotations carry what is checked when one is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from benchmark.results import ORACLE
from reports.statistics import Estimate

Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1, max_length=500)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]

#: Nothing but the named fields, and no number for a text.
STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class AttackResult:
    """What one attack rebuilt at one checkpoint, over all seeds and victims of an entry.

    ``reason`` says why an attack does not apply; the estimates are then None. ``asr`` carries a Wilson interval over images,
    ``ssim`` and ``psnr`` a bootstrap interval over images. ``label_accuracy`` is None where the attacker was given the labels.
    ``winners`` counts, for an attack that chooses among others, the images for which each was chosen.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attack: Name
    tier: Literal["", "static", "adaptive", "worst case", "oracle bound"]
    checkpoint_epoch: Count
    asr: Estimate | None = None
    ssim: Estimate | None = None
    psnr: Estimate | None = None
    label_accuracy: Share | None = None
    seconds_per_victim: Positive | None = None
    winners: dict[str, Count] = field(default_factory=dict)
    reason: Text = ""


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
    problems: list[Text] = field(default_factory=list)
    rank: Annotated[int, Field(ge=1)] | None = None
    pareto: bool = False
    submission: Text = ""
    paper: Text = ""

    @property
    def strongest(self) -> AttackResult | None:
        """The attack and checkpoint with the highest ASR, of equal ones that with the highest mean SSIM."""
        return strongest(self.attacks)

    def strongest_of(self, tier: str) -> AttackResult | None:
        """As above, among the attacks of a tier."""
        return strongest([result for result in self.attacks if result.tier == tier])

    def strongest_at(self, epoch: int) -> AttackResult | None:
        """As above, at a checkpoint."""
        return strongest([result for result in self.attacks if result.checkpoint_epoch == epoch])

    @property
    def measured(self) -> tuple[float, float] | None:
        """Test accuracy and worst-case ASR, where there are both."""
        worst = self.strongest
        if worst is None or worst.asr is None or self.accuracy is None:
            return None
        return self.accuracy.mean, worst.asr.mean


@dataclass(frozen=True)
class TrainingProtocol:
    """How the models were trained."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: Count
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class EvaluationProtocol:
    """Which gradients were observed and attacked."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    checkpoints: list[Annotated[int, Field(ge=-1)]]
    victims: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    labels: Literal["known", "inferred"]
    rounds: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Portfolio:
    """Which attacks the worst case ran: its version, and the attacks that plugins added."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    version: Annotated[int, Field(ge=1)]
    added: list[Name]


@dataclass(frozen=True)
class Protocol:
    """All that makes numbers comparable: the data, the training, the observation and the attacks."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    training: TrainingProtocol
    evaluation: EvaluationProtocol
    attacks: list[Name]
    image_size: Annotated[int, Field(ge=1)] | None
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    portfolio: Portfolio


@dataclass(frozen=True)
class Board:
    """All entries of a data set and model that were measured alike, best first."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dataset: Name
    model: Name
    protocol: Protocol
    entries: list[Entry]

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.model}"

    @property
    def checkpoints(self) -> list[int]:
        """All checkpoints with a result."""
        return sorted({result.checkpoint_epoch for entry in self.entries for result in entry.attacks})

    @property
    def only_static(self) -> bool:
        """Whether no attacker who knows the defense was measured."""
        tiers = {result.tier for entry in self.entries for result in entry.attacks} - {""}
        return tiers == {"static"}

    @property
    def has_worst_case(self) -> bool:
        """Whether the portfolio of all attacks was run."""
        return any(attack.split("(")[0] == "worst-case" for attack in self.protocol.attacks)

    @property
    def has_oracle(self) -> bool:
        """Whether a bound was measured that no attacker can reach by choice."""
        return any(result.tier == ORACLE for entry in self.entries for result in entry.attacks)


def strongest(results: list[AttackResult]) -> AttackResult | None:
    """The result with the highest ASR, of equal ones that with the highest mean SSIM. An oracle bound is no attack: it looks at the
    originals."""
    measured = [a for a in results if a.asr is not None and a.ssim is not None and a.tier != ORACLE]
    return max(measured, key=lambda a: (a.asr.mean, a.ssim.mean), default=None)  # type: ignore[union-attr]


def ranked(entries: list[Entry]) -> list[Entry]:
    """By the strongest attack's ASR, lowest first, then by test accuracy, highest first; what was not measured comes last. Marks
    the Pareto front of both: entries of which no other has at least the accuracy at an ASR no higher, and is better in one."""
    def order(entry: Entry) -> tuple[bool, float, float]:
        worst = entry.strongest
        asr = worst.asr.mean if worst is not None and worst.asr is not None else 0.0
        return worst is None, asr, -(entry.accuracy.mean if entry.accuracy is not None else 0.0)

    points = {entry.measured for entry in entries} - {None}

    def dominated(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] <= point[1] for other in points if other is not None)

    return [replace(entry, rank=place if entry.strongest is not None else None,
                    pareto=entry.measured is not None and not dominated(entry.measured))
            for place, entry in enumerate(sorted(entries, key=order), start=1)]
