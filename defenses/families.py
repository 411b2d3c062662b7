"""A defense over its strength: one parameter at several values, all else alike."""

from __future__ import annotations

from dataclasses import dataclass

from defenses.base import Defense
from defenses.composition import joined
from defenses.support.registry import Registry, SpecificationError, parse, split_composition, written


@dataclass(frozen=True)
class Family:
    """Defenses that differ in one parameter alone.

    Attributes:
        name: the label of a member with that parameter by its name alone, such as ``noise(std)``.
        parameter: its name; None for a defense that is not swept.
        members: the defenses, in the order in which the values were given.
    """

    name: str
    parameter: str | None
    members: tuple[Defense, ...]


def read_family(specification: str, registry: Registry[Defense]) -> Family:
    """The family of a specification such as ``precode+noise(std=[0.001, 0.01])``; without a list, the one defense.

    Raises:
        SpecificationError: the text cannot be read, a name or value in it is not acceptable, there are two lists, or one is empty,
            names a value twice or changes more than its parameter.
    """
    calls = [parse(part, registry.kind, lists=True) for part in split_composition(specification)]
    lists = [(place, parameter, value) for place, (_, arguments) in enumerate(calls)
             for parameter, value in arguments.items() if isinstance(value, list)]
    if not lists:
        defense = joined([registry.build(*call) for call in calls])
        return Family(defense.label, None, (defense,))
    given = f"{registry.kind} {specification.strip()!r}"
    if len(lists) > 1:
        raise SpecificationError(f"{given} has {len(lists)} lists, of {' and '.join(parameter for _, parameter, _ in lists)}; "
                                 "a family is swept over one parameter")
    place, parameter, values = lists[0]
    if not values:
        raise SpecificationError(f"{given}: the list of {parameter} is empty")
    members: list[Defense] = []
    for value in values:
        if isinstance(value, list):
            raise SpecificationError(f"{given}: the list of {parameter} has a list in it, {value!r}")
        member = joined([registry.build(name, {**arguments, parameter: value} if of_list == place else arguments)
                         for of_list, (name, arguments) in enumerate(calls)])
        if member in members:
            raise SpecificationError(f"{given}: {parameter} is {value!r} twice")
        members.append(member)
    names = list(dict.fromkeys(_name(member, place, parameter) for member in members))
    if len(names) > 1:
        raise SpecificationError(f"{given}: its members differ in more than {parameter}: {names[0]}, {names[1]}")
    return Family(names[0], parameter, tuple(members))


def _name(member: Defense, place: int, parameter: str) -> str:
    return "+".join(written(part, parameter if of_part == place else None) for of_part, part in enumerate(member.parts))
