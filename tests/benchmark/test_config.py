from __future__ import annotations

import textwrap

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmark.config import Grid, Tuning, load_file, load_preset, make_grid, presets
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
    ({"evaluation": {"batch_size": 8}}, "batch_size of earlier versions is now observed: [8], or as-trained"),
    ({"evaluation": {"observed": [0]}}, "evaluation.observed.0"),
    ({"evaluation": {"observed": ["all"]}}, "evaluation.observed.0"),
    ({"evaluation": {"observed": [True]}}, "evaluation.observed.0"),
    ({"evaluation": {"observed": []}}, "evaluation.observed"),
    ({"evaluation": {"images": 0}}, "evaluation.images"),
    ({"tuning": {"step_size": [1]}}, "unknown key 'tuning.step_size'; did you mean 'tuning.step_sizes'?"),
    ({"tuning": {"step_sizes": []}}, "tuning.step_sizes"),
    ({"tuning": {"step_sizes": [0.0]}}, "tuning.step_sizes.0"),
    ({"tuning": {"step_sizes": ["1e-3"]}}, "tuning.step_sizes.0"),
    ({"tuning": {"batch_sizes": [0]}}, "tuning.batch_sizes.0"),
    ({"tuning": {"optimizers": ["adamw"]}}, "tuning.optimizers.0"),
    ({"tuning": {"validation": 1.0}}, "tuning.validation"),
    ({"tuning": {"validation": 0}}, "tuning.validation"),
    ({"tuning": {"epochs": 0}}, "tuning.epochs"),
    ({"tuning": {"epochs": 11}}, "tuning.epochs must be at most training.epochs = 10, got 11"),
    ({"tuning": {}, "training": {"epochs": 0}}, "training.epochs must be at least 1 where trainings are tuned, got 0"),
    ({"tuning": {}, "training": {"learning_rate": 0.01}}, "training.learning_rate cannot be given where trainings are tuned, got 0.01"),
    ({"tuning": {}, "training": {"batch_size": 8}}, "training.batch_size cannot be given where trainings are tuned, got 8"),
    ({"tuning": {}, "training": {"optimizer": "sgd"}}, "training.optimizer cannot be given where trainings are tuned, got 'sgd'"),
    ({"tuning": "maybe"}, "tuning"),
    ({"defenses": ["noise(std=[])"]}, "the list of std is empty"),
    ({"defenses": ["noise(std=[0.1])+pruning(p=[0.9])"]}, "has 2 lists, of std and p"),
    ({"attacks": ["dlg(iterations=[1, 2])"]}, "iterations takes one value here, got [1, 2]"),
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


def of_yaml(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(textwrap.dedent(text))
    return make_grid(load_file(tmp_path / "grid.yaml"), "grid.yaml")


def test_yaml_means_what_a_person_means(tmp_path):
    """1e-3 is a number, which PyYAML reads as a text; bare words are names, lists in calls are strengths."""
    grid = of_yaml(tmp_path, """
        defenses:
          - none
          - noise(std=[0.001, 0.003, 0.01, 0.03, 0.1])
          - pruning(p=[0.9, 0.99, 0.999])
          - dp-sgd(target_epsilon=[1, 3, 8, 30])
        models: [lenet(activation=tanh), lenet]
        attacks: [portfolio(budget=fast)]
        tuning: {step_sizes: [1e-3, 3e-3, 1e-2, 3e-2], batch_sizes: [64, 256], optimizers: [adam], validation: 0.1}
        evaluation: {observed: [as-trained, single]}
    """)
    assert grid.tuning == Tuning(step_sizes=(0.001, 0.003, 0.01, 0.03), batch_sizes=(64, 256), optimizers=("adam",), validation=0.1, epochs=None)
    assert grid.tuning == Tuning() and len(grid.tuning.combinations()) == 8
    assert grid.evaluation.observed == ("as-trained", "single") and grid.models == ("lenet(activation='tanh')", "lenet")
    assert [(family.name, family.parameter, len(family.defenses)) for family in grid.families] == [
        ("none", None, 1), ("noise(std)", "std", 5), ("pruning(p)", "p", 3), ("dp-sgd(target_epsilon)", "target_epsilon", 4)]
    assert len(grid.points) == 13 and grid.points[:3] == ("none", "noise(std=0.001)", "noise(std=0.003)")
    assert len(grid.attacks) > 8


@pytest.mark.parametrize(("text", "tuning"), [
    ("tuning: off", None), ("tuning: none", None), ("tuning: null", None), ("tuning:", None), ("tuning: false", None), ("tuning: Off", None),
    ("tuning: no", None), ("tuning: None", None), ("seeds: [0]", None), ("tuning: on", Tuning()), ("tuning: yes", Tuning()),
    ("tuning: {}", Tuning()), ("tuning: true", Tuning()),
    ("tuning: {step_sizes: [1.E-3, 1e+0, .5, 1, 1e-3]}", Tuning(step_sizes=(0.001, 1.0, 0.5))),
    ("tuning: {optimizers: [sgd, adam], epochs: 3}", Tuning(optimizers=("sgd", "adam"), epochs=3))])
def test_tuning_in_yaml(tmp_path, text, tuning):
    assert of_yaml(tmp_path, text).tuning == tuning


@pytest.mark.parametrize(("text", "expected"), [
    ("training: {learning_rate: 1e-3}", 0.001), ("training: {learning_rate: 1E-2}", 0.01), ("training: {learning_rate: 3}", 3.0),
    ("training: {learning_rate: 2.5e+1}", 25.0)])
def test_numbers_in_yaml(tmp_path, text, expected):
    assert of_yaml(tmp_path, text).training.learning_rate == expected


@pytest.mark.parametrize("text", ["defenses: [none]", "defenses:\n- none", "defenses: ['none']"])
def test_the_defense_none_in_yaml(tmp_path, text):
    assert of_yaml(tmp_path, text).defenses == ("none",)


@pytest.mark.parametrize(("given", "modes"), [
    ("[8, 1, as-trained]", ("8", "single", "as-trained")), ("[single, 1, '1']", ("single",)), ("['64', 64]", ("64",))])
def test_modes_in_yaml(tmp_path, given, modes):
    assert of_yaml(tmp_path, f"evaluation: {{observed: {given}}}").evaluation.observed == modes


def test_a_defense_that_is_also_a_strength_is_no_family_of_its_own():
    grid = make_grid({"defenses": ["noise(std=0.1)", "noise(std=[0.01, 0.1])", "none", "noise( std=[0.1, 1.0] )", "pruning(p=0.5)"]}, "test")
    assert [(family.name, family.defenses) for family in grid.families] == [
        ("noise(std)", ("noise(std=0.01)", "noise(std=0.1)", "noise(std=1.0)")), ("none", ("none",)), ("pruning(p=0.5)", ("pruning(p=0.5)",))]
    assert grid.points == ("noise(std=0.01)", "noise(std=0.1)", "noise(std=1.0)", "none", "pruning(p=0.5)")
    assert make_grid(grid.model_dump(mode="json"), "again").families == grid.families


def test_how_many_gradients_are_attacked():
    evaluation = make_grid({"evaluation": {"victims": 128, "images": 1024}}, "test").evaluation
    assert [evaluation.attacked(size) for size in (1, 2, 8, 9, 64, 256, 1024, 4096)] == [128, 128, 128, 113, 16, 4, 1, 1]
    assert [evaluation.images_of(mode, 64) for mode in ("as-trained", "single", "8")] == [64, 1, 8]
