"""No attack, runner or report knows a defense: what they use of one is what it says of itself."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
from attack_cases import observation_of

import attacks
import defenses
from attacks.score import score
from benchmark import plugins

ROOT = Path(defenses.__file__).parents[1]
#: Concrete defenses with their layers, and the modules that hold them.
CONCRETE = {cls.__name__ for cls in defenses.registry} | {"Composition", "VariationalBottleneck", "ConvolutionalBottleneck", "DroppedLinear", "PrivateDPSGD", "OpacusAccount"}
MODULES = {f"defenses.{path.stem}" for path in (ROOT / "defenses").glob("*.py")} - {
    "defenses.__init__", "defenses.base", "defenses.budget", "defenses.choices", "defenses.client", "defenses.density", "defenses.evaluating", "defenses.families", "defenses.mixing",
    "defenses.private", "defenses.release", "defenses.rounds", "defenses.stages", "defenses.step", "defenses.stochastic"}
NAMES = {cls.name for cls in defenses.registry if cls.__module__.startswith("defenses.")}
#: Strings that are the name of a defense and are none, or have to be there.
ALLOWED = {
    ("benchmark/config.py", "none"): "what a grid trains that names no defense, and no tuning",
    ("benchmark/cli.py", "none"): "a paper that is not given",
    ("reports/drawing.py", "none"): "a setting of matplotlib",
    ("reports/text.py", "none"): "no attacks, no safe strength, none that costs little",
}


def sources() -> list[Path]:
    return sorted(path for room in ("attacks", "benchmark", "reports") for path in (ROOT / room).rglob("*.py"))


def findings(path: Path, tree: ast.AST) -> list[str]:
    where = path.relative_to(ROOT).as_posix()
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    found = []
    for node in ast.walk(tree):
        place = f"{where}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            found.append(f"{place} imports from {node.module}")
        if isinstance(node, ast.Import):
            found += [f"{place} imports {alias.name}" for alias in node.names if alias.name in MODULES]
        if isinstance(node, ast.alias) and node.name in CONCRETE:
            found.append(f"{place} imports {node.name}")
        if (isinstance(node, ast.Name) and node.id in CONCRETE) or (isinstance(node, ast.Attribute) and node.attr in CONCRETE):
            found.append(f"{place} names {ast.unparse(node)}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("type", "isinstance", "issubclass") \
                and "defense" in ast.unparse(node.args[0]):
            found.append(f"{place} asks for the class of a defense: {ast.unparse(node)}")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            named = node.value.split("(")[0]
            if named in NAMES and (where, named) not in ALLOWED:
                found.append(f"{place} holds the string {node.value!r}")
    return found


def test_no_class_module_or_name_of_a_defense_outside_their_room():
    assert {f"defenses.{name}" for name in ("composition", "dp_sgd", "noise", "precode")} < MODULES
    assert [line for path in sources() for line in findings(path, ast.parse(path.read_text()))] == []


@pytest.mark.parametrize("line", [
    "from defenses.noise import NoisyGradients", "import defenses.precode", "from defenses import PPP", "isinstance(defense, Thing)",
    "type(observation.defense).regularizer", "defenses.VariationalBottleneck", "name == 'precode'", "known = ['noise(std=0.1)']"])
def test_what_would_be_found(line):
    assert findings(ROOT / "attacks" / "some.py", ast.parse(line))


#: A defense with the changes that make its file one of a plugin: other classes, another name.
COPIES = {
    "noise": ("noise.py", {"NoisyGradients": "Hiss", '"noise"': '"hiss"'}),
    "pruning(p=0.5)": ("pruning.py", {"GradientPruning": "Shears", '"pruning"': '"shears"'}),
    "precode": ("precode.py", {"VariationalBottleneck": "Funnel", "PRECODE": "Throat", '"precode"': '"throat"'}),
}


@pytest.mark.parametrize("model", ["lenet", "mlp"])
@pytest.mark.parametrize("original", COPIES)
def test_a_copy_under_other_names_brought_as_a_plugin_is_attacked_alike(original, model, tmp_path):
    file, renamed = COPIES[original]
    source = (ROOT / "defenses" / file).read_text()
    for old, new in renamed.items():
        assert old in source
        source = source.replace(old, new)
    (tmp_path / "copy.py").write_text(source)
    plugin = plugins.read(tmp_path / "copy.py")
    name = next(new.strip('"') for old, new in renamed.items() if old.startswith('"'))
    try:
        first, _ = observation_of(original, model)
        second, _ = observation_of(name + original.removeprefix(original.split("(")[0]), model)
        assert second.defense.__class__.__module__ == plugin.module
        assert all(torch.equal(g, second.shared[key]) for key, g in first.shared.items())
        ran = 0
        for cls in attacks.registry:
            known = cls.__dataclass_fields__
            attack = cls(**{"iterations": 4} if "iterations" in known else {})
            assert attack.obstacle(first) == attack.obstacle(second) and attack.informed_by(first) == attack.informed_by(second)
            if attack.obstacle(first) is None:
                one, other = (attack.reconstruct(observation, seed=0) for observation in (first, second))
                assert torch.equal(one.images, other.images) and torch.equal(one.cost, other.cost)
                pixels = (one.images - 0.5) / 0.25
                assert torch.equal(*(score(observation, pixels, one.labels, 0) for observation in (first, second)))
                ran += 1
        assert ran >= 5
    finally:
        del defenses.registry._classes[name], sys.modules[plugin.module]
