from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attacks
import defenses
from benchmark import data, models
from defenses import Composition, Defense, NoisyGradients, SpecificationError, create
from defenses.support.registry import Registry, parse


@pytest.mark.parametrize(("specification", "expected"), [
    ("noise", NoisyGradients()),
    (" noise( std = 1e-3 ) ", NoisyGradients(std=1e-3)),
    ("noise(std=0.5, distribution='laplacian')", NoisyGradients(0.5, "laplacian")),
    ("noise(std=0.5, distribution=laplacian)", NoisyGradients(0.5, "laplacian")),
    ("noise(std=0.1)+pruning", Composition((NoisyGradients(0.1), defenses.GradientPruning()))),
])
def test_specifications(specification, expected):
    assert create(specification) == expected
    assert create(expected.label) == expected


@pytest.mark.parametrize(("specification", "message"), [
    ("nose", "did you mean 'noise'"),
    ("noise(sdt=1)", "did you mean 'std'"),
    ("noise(std=-1)", "std must be a number >= 0, got -1"),
    ("noise(std=much)", "std must be a number >= 0, got 'much'"),
    ("noise(std={[1]: 2})", "expected NAME or NAME"),
    ("noise(std=[0.1, 0.2])", "std takes one value here, got [0.1, 0.2]; only the defenses of a grid take lists"),
    ("pruning+noise(std=[])", "std takes one value here, got []"),
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


@pytest.mark.parametrize("create_other", [attacks.create, attacks.create_all, models.registry.create, data.registry.create])
@pytest.mark.parametrize("specification", ["any(x=[1, 2])", "dlg(iterations=[1, 2])", "portfolio(budget=[fast, standard])"])
def test_only_defenses_take_lists(create_other, specification):
    with pytest.raises(SpecificationError, match=r"takes one value here, got \[.*\]; only the defenses of a grid take lists") as error:
        create_other(specification)
    assert "\n" not in str(error.value)


def test_bare_words_are_texts():
    assert parse("a(x=tanh, y=(one, 2), z=[fast, None], e=1e-3)", "thing", lists=True) == (
        "a", {"x": "tanh", "y": ("one", 2), "z": ["fast", None], "e": 1e-3})
    assert attacks.create_all("portfolio(budget=fast)") == attacks.create_all("portfolio(budget='fast')")


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
