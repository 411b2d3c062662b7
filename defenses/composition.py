"""Several defenses as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar

from torch import Tensor, nn

from defenses.base import Account, Defense
from defenses.choices import Choice, chained
from defenses.mixing import Mixing
from defenses.release import Release
from defenses.rounds import images_of_each
from defenses.step import Batch, Facts, Gradients, Plan, State, Step
from defenses.support.registry import SpecificationError


@dataclass(frozen=True)
class Composition(Defense):
    """Chain the hooks of several defenses, first to last: ``precode+noise(std=0.001)``.

    At most one member may make the gradient of a batch itself, or account for it (DP-SGD does both); its gradient then takes the
    place of the plain one, and the members' gradient hooks follow. A member that mixes samples in ``transform_batch`` voids the
    guarantee of DP-SGD.

    Args:
        members: two or more defenses.
    """

    name: ClassVar[str] = "composition"
    summary: ClassVar[str] = "several defenses, one after the other"

    members: tuple[Defense, ...]

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError("a composition needs at least two defenses")
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.label}: each defense may be named once")
        for hook in ("sample_batches", "batch_gradient", "account"):
            if sum(getattr(type(member), hook) is not getattr(Defense, hook) for member in self.members) > 1:
                raise ValueError(f"{self.label}: only one of the defenses may replace the training (such as dp-sgd)")
        if sum(type(member).mixing is not Defense.mixing for member in self.members) > 1:
            raise ValueError(f"{self.label}: only one of the defenses may mix images (such as mixup)")
        if self.summed > 1 and any(type(member).mixing is not Defense.mixing for member in self.members):
            raise ValueError(f"{self.label}: no attack is known on a sum over clients that each mix their images (such as mixup)")

    @property
    def label(self) -> str:
        return "+".join(member.label for member in self.members)

    @property
    def parts(self) -> tuple[Defense, ...]:
        return self.members

    @property
    def acts(self) -> str:  # type: ignore[override]
        """Members act where each does."""
        return "gradient" if any(member.acts == "gradient" for member in self.members) else "both"

    @property
    def summed(self) -> int:
        return max(member.summed for member in self.members)

    @property
    def samples(self) -> bool:
        return any(member.samples for member in self.members)

    @property
    def guarantees(self) -> bool:
        return any(member.guarantees for member in self.members)

    @property
    def regularized(self) -> bool:
        return any(member.regularized for member in self.members)

    @property
    def regularizer_reads_parameters(self) -> bool:  # type: ignore[override]
        """Whether that of a member does."""
        return any(member.regularized and member.regularizer_reads_parameters for member in self.members)

    def parameters(self) -> dict[str, Any]:
        return {member.name: member.parameters() for member in self.members}

    def extend_model(self, module: nn.Module) -> nn.Module:
        for member in self.members:
            module = member.extend_model(module)
        return module

    def regularizer(self, module: nn.Module) -> Tensor | float:
        return sum(member.regularizer(module) for member in self.members)

    def initial_state(self, module: nn.Module) -> State | None:
        return {member.name: member.initial_state(module) or {} for member in self.members}

    def transform_batch(self, batch: Batch, step: Step) -> Batch:
        for member in self.members:
            batch = member.transform_batch(batch, step.of_member(member.name))
        return batch

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        for member in self.members:
            if step.concerns(member.acts):
                gradients = member.transform_gradients(gradients, step.of_member(member.name))
        return gradients

    def shared_among(self, clients: int, local_steps: int = 1) -> Composition:
        return replace(self, members=tuple(member.shared_among(clients, local_steps) for member in self.members))

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        if self.summed == 1:
            return self._of_client(shared, facts)
        one = self.shared_among(self.summed, facts.local_steps)
        of_one = facts._replace(batch_size=images_of_each(facts.batch_size, self.summed))
        # What each client shares is not seen.
        told = one._of_client(dict.fromkeys(shared), of_one)
        return {name: release.summed(self.summed) for name, release in told.items()}

    def _of_client(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        told = dict.fromkeys(shared, Release())
        # Whatever makes the gradient comes first; each member sees what it returned as far as nothing was done to it later.
        chain = sorted(self.members, key=lambda member: type(member).batch_gradient is Defense.batch_gradient)
        for member in reversed(chain):
            seen = {name: None if told[name].stages else g for name, g in shared.items()}
            own = member.release(seen, facts)
            told = {name: own[name].then(told[name]) for name in shared}
        return told

    def choices(self, facts: Facts) -> tuple[Choice, ...]:
        return reduce(chained, (member.choices(facts) for member in self.members), ())

    def mixing(self, facts: Facts) -> Mixing | None:
        found = (member.mixing(facts) for member in self.members)
        return next((mixing for mixing in found if mixing is not None), None)

    def sample_batches(self, data_loader: Any) -> Any:
        for member in self.members:
            data_loader = member.sample_batches(data_loader)
        return data_loader

    def planned(self, plan: Plan) -> Defense:
        return replace(self, members=tuple(member.planned(plan) for member in self.members))

    def batch_gradient(self, batch: Batch, step: Step) -> tuple[Gradients, Tensor] | None:
        made = (member.batch_gradient(batch, step.of_member(member.name)) for member in self.members)
        return next((found for found in made if found is not None), None)

    def account(self, plan: Plan) -> Account | None:
        accounts = (member.account(plan) for member in self.members)
        return next((found for found in accounts if found is not None), None)


def joined(members: Sequence[Defense]) -> Defense:
    """The composition of several defenses, or the only one itself.

    Raises:
        SpecificationError: they do not compose.
    """
    if len(members) == 1:
        return members[0]
    try:
        return Composition(tuple(members))
    except ValueError as error:
        raise SpecificationError(str(error)) from error
