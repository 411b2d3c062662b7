from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import defenses
from defenses import DPSGD, PRECODE, Composition, Family, GradientPruning, NoisyGradients, SpecificationError, create, family
from defenses.base import Defense
from defenses.families import read_family
from defenses.support.registry import Registry


@pytest.mark.parametrize(("specification", "expected"), [
    ("noise(std=[0.001, 0.01])", Family("noise(std)", "std", (NoisyGradients(0.001), NoisyGradients(0.01)))),
    ("pruning(p=[0.9])", Family("pruning(p)", "p", (GradientPruning(0.9),))),
    ("dp-sgd(target_epsilon=[1, 3], delta=1e-6)", Family("dp-sgd(target_epsilon, delta=1e-06)", "target_epsilon", (
        DPSGD(target_epsilon=1, delta=1e-6), DPSGD(target_epsilon=3, delta=1e-6)))),
    ("dp-sgd(max_grad_norm=[1.0, 0.1])", Family("dp-sgd(noise_multiplier=1.0, max_grad_norm)", "max_grad_norm", (
        DPSGD(), DPSGD(max_grad_norm=0.1)))),
    ("noise(distribution=[gaussian, laplacian])", Family("noise(std=0.01, distribution)", "distribution", (
        NoisyGradients(), NoisyGradients(distribution="laplacian")))),
    ("precode+noise(std=[0.01, 0.03])", Family("precode(bottleneck_size=256)+noise(std)", "std", (
        Composition((PRECODE(), NoisyGradients(0.01))), Composition((PRECODE(), NoisyGradients(0.03)))))),
    ("none", Family("none", None, (create("none"),))),
    ("precode+noise", Family("precode(bottleneck_size=256)+noise(std=0.01)", None, (create("precode+noise"),))),
])
def test_families(specification, expected):
    assert family(specification) == expected


@pytest.mark.parametrize(("specification", "message"), [
    ("noise(std=[])", "defense 'noise(std=[])': the list of std is empty"),
    ("noise(std=[0.1], distribution=[gaussian, laplacian])", "has 2 lists, of std and distribution; a family is swept over one parameter"),
    ("noise(std=[0.1, 0.2])+pruning(p=[0.9])", "has 2 lists, of std and p"),
    ("noise(std=[0.1, 0.2, 0.10])", "std is 0.1 twice"),
    ("pruning(p=[0, False])", "p must be a number >= 0 and <= 1, got False"),
    ("noise(std=[0.1, -1])", "defense noise(std=-1): std must be a number >= 0, got -1"),
    ("precode+noise(std=[0.1, much])", "noise(std='much'): std must be a number >= 0, got 'much'"),
    ("noise(std=[[0.1], 0.2])", "the list of std has a list in it, [0.1]"),
    ("noise(sdt=[0.1, 0.2])", "did you mean 'std'"),
    ("dp-sgd(noise_multiplier=1, target_epsilon=[1, 3])", "give either noise_multiplier or target_epsilon, not both"),
    ("dp-sgd(target_epsilon=[None, 3])", "its members differ in more than target_epsilon: "
     "dp-sgd(noise_multiplier=1.0, target_epsilon), dp-sgd(target_epsilon)"),
    ("noise(std=[1, 2])+noise", "named once"),
    ("noise(std=[0.1, 0.2)", "expected NAME or NAME"),
])
def test_errors_are_one_line(specification, message):
    with pytest.raises(SpecificationError) as error:
        family(specification)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tuple_is_a_value():
    @dataclass(frozen=True)
    class Mine(Defense):
        name: ClassVar[str] = "mine"
        layers: tuple[str, ...] = ()

    found = read_family("mine(layers=[(), (first, last)])", Registry("defense", Defense, Mine))
    assert found == Family("mine(layers)", "layers", (Mine(), Mine(("first", "last"))))
    assert read_family("mine(layers=(first, last))", Registry("defense", Defense, Mine)).parameter is None


_VALUES = {
    "noise(std={})": st.floats(0, 10), "precode+noise(std={})": st.floats(0, 10), "pruning(p={})": st.floats(0, 1),
    "dp-sgd(target_epsilon={}, delta=1e-6)": st.floats(0.01, 100), "dp-sgd(max_grad_norm={})": st.floats(0.01, 10),
    "precode(bottleneck_size={}, beta=0.1)+dp-sgd": st.integers(1, 1000), "noise(distribution={})": st.sampled_from(["gaussian", "laplacian"]),
}


@given(st.sampled_from(sorted(_VALUES)).flatmap(
    lambda text: st.tuples(st.just(text), st.lists(_VALUES[text], min_size=1, max_size=4, unique_by=lambda value: value))))
def test_members_parse_back_and_differ_in_the_swept_parameter_alone(case):
    text, values = case
    found = family(text.format(values))
    assert [create(member.label) for member in found.members] == list(found.members)
    assert family(found.members[0].label).members == found.members[:1]
    described = [dict(_flat(member)) for member in found.members]
    assert [parameters.pop(found.parameter) for parameters in described] == values
    assert all(parameters == described[0] for parameters in described)


def _flat(defense: Defense) -> Iterator[tuple[str, object]]:
    for part in defense.parts:
        yield from part.parameters().items()


def test_every_registered_defense_is_a_family_of_its_own():
    for cls in defenses.registry:
        assert family(cls.name) == Family(cls().label, None, (cls(),))
