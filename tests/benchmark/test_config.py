from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmark.config import Grid, load_file, load_preset, make_grid, presets
from benchmark.errors import InputError


def test_every_preset_is_a_grid():
    assert "quick" in presets()
    for name in presets():
        assert make_grid(load_preset(name), name).name == name


def test_specifications_are_canonical_and_named_once():
    grid = make_grid({"defenses": ["noise", "noise(std=0.01)", "none"], "seeds": [1, 1]}, "test")
    assert grid.defenses == ("noise(std=0.01)", "none") and grid.seeds == (1,)


def test_checkpoints_are_sorted_and_minus_one_is_the_last():
    assert make_grid({"training": {"epochs": 4}, "evaluation": {"checkpoints": [-1, 0, 4]}}, "test").checkpoints() == (0, 4)


@pytest.mark.parametrize(("content", "message"), [
    ({"defence": ["none"]}, "unknown key 'defence'; did you mean 'defenses'?"),
    ({"training": {"epoch": 3}}, "unknown key 'training.epoch'; did you mean 'training.epochs'?"),
    ({"training": {"epochs": -1}}, "training.epochs"),
    ({"training": {"epochs": "3"}}, "training.epochs"),
    ({"training": {"learning_rate": 0}}, "training.learning_rate"),
    ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
    ({"training": 3}, "training"),
    ({"defenses": []}, "defenses"),
    ({"defenses": "none"}, "defenses"),
    ({"defenses": ["nose"]}, "did you mean 'noise'?"),
    ({"attacks": ["inverting-gradients(iterations=0)"]}, "iterations must be a whole number >= 1, got 0"),
    ({"seeds": [-1]}, "seeds.0"),
    ({"evaluation": {"checkpoints": [11]}}, "evaluation.checkpoints must be -1 (last) to training.epochs = 10, got 11"),
    ({"evaluation": {"labels": "guessed"}}, "'known' or 'inferred'"),
    ({"image_size": 3}, "image_size"),
    ({"name": "../x"}, "name"),
])
def test_bad_content_says_where_and_what(content, message):
    with pytest.raises(InputError) as error:
        make_grid(content, "grid.yaml")
    assert str(error.value).startswith("grid.yaml: ") and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "message"), [
    ("a: [", "not valid YAML"), ("- none", "must be a mapping"), ("!!python/object/apply:os.system [ls]", "not valid YAML")])
def test_bad_files(tmp_path, text, message):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_file(tmp_path / "grid.yaml")
    with pytest.raises(InputError, match="cannot read"):
        load_file(tmp_path / "absent.yaml")


json_like = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                         lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)


@given(st.dictionaries(st.sampled_from(["name", "datasets", "models", "defenses", "attacks", "seeds", "training", "evaluation", "x"]),
                       json_like, max_size=3))
def test_any_content_gives_a_grid_or_a_one_line_error(content):
    try:
        assert isinstance(make_grid(content, "fuzz"), Grid)
    except InputError as error:
        assert "\n" not in str(error) or "\\n" not in repr(content)


@given(st.text(max_size=80))
def test_any_yaml_text_gives_a_mapping_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "grid.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        assert isinstance(load_file(path), dict)
    except InputError:
        pass


def test_a_grid_survives_yaml(tmp_path):
    grid = make_grid(load_preset("quick"), "quick")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid.model_dump(mode="json")))
    assert make_grid(load_file(tmp_path / "grid.yaml"), "again") == grid
