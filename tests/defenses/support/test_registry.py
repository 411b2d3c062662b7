from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import defenses
from defenses import Composition, Defense, NoisyGradients, SpecificationError, create
from defenses.support.registry import Registry


@pytest.mark.parametrize(("specification", "expected"), [
    ("noise", NoisyGradients()),
    (" noise( std = 1e-3 ) ", NoisyGradients(std=1e-3)),
    ("noise(std=0.5, distribution='laplacian')", NoisyGradients(0.5, "laplacian")),
    ("noise(std=0.1)+pruning", Composition((NoisyGradients(0.1), defenses.GradientPruning()))),
])
def test_specifications(specification, expected):
    assert create(specification) == expected
    assert create(expected.label) == expected


@pytest.mark.parametrize(("specification", "message"), [
    ("nose", "did you mean 'noise'"),
    ("noise(sdt=1)", "did you mean 'std'"),
    ("noise(std=-1)", "std must be a number >= 0, got -1"),
    ("noise(0.1)", "expected NAME or NAME"),
    ("noise(std=__import__('os'))", "expected NAME or NAME"),
    ("noise(", "expected NAME or NAME"),
    ("", "expected NAME or NAME"),
    ("none+", "expected NAME or NAME"),
    ("noise+noise(std=1)", "named once"),
    ("none(x=1)", "it has none"),
])
def test_bad_specifications_say_what_is_wrong(specification, message):
    with pytest.raises(SpecificationError) as error:
        create(specification)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=60) | st.text(alphabet="noisepruga(=)+,'.0123456789[]{} ", max_size=40))
def test_any_text_gives_a_defense_or_a_specification_error(text):
    try:
        assert isinstance(create(text), Defense)
    except SpecificationError:
        pass


def test_registering_checks_the_class():
    registry = Registry("defense", Defense)

    @dataclass(frozen=True)
    class Mine(Defense):
        name: ClassVar[str] = "mine"

    class Undecorated(Defense):
        name = "undecorated"

    @dataclass(frozen=True)
    class Unnamed(Defense):
        pass

    registry.register(Mine)
    assert registry.names() == ["mine"]
    for bad in (Undecorated, Unnamed, int):
        with pytest.raises(SpecificationError):
            registry.register(bad)
    with pytest.raises(SpecificationError, match="taken"):
        registry.register(dataclass(frozen=True)(type("Other", (Mine,), {})))
