"""What identifies an attack on a model."""

from __future__ import annotations

from run_cases import grid_of

from benchmark import plugins
from benchmark.run.cells import attacks_of

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from attacks import Attack, Reconstruction

@dataclass(frozen=True)
class Grey(Attack):
    name: ClassVar[str] = "grey"
    summary: ClassVar[str] = "a grey image"
    paper: ClassVar[str] = "none"
    threat_model: ClassVar[str] = "B"

    def reconstruct(self, observation, *, seed, progress=None):
        shape = (len(observation), observation.batch_size, *observation.image_shape)
        return Reconstruction(observation.mean.new_full(shape, 0.5), observation.labels, observation.mean.new_zeros(len(observation)))
"""


def test_a_race_depends_on_the_attacks_of_plugins_and_others_do_not(shapes, tmp_path, clean_registry):
    grid = grid_of(shapes, attacks=["race", "analytic"])
    before = {spec.attack: key for key, spec in attacks_of(grid, []).items()}
    (tmp_path / "grey.py").write_text(PLUGIN)
    plugin = plugins.read(tmp_path / "grey.py")
    plugins.load(plugin)
    after = {spec.attack: key for key, spec in attacks_of(grid, [plugin]).items()}
    changed = {attack.split("(")[0]: after[attack] != before[attack] for attack in after}
    assert changed == {"race": True, "analytic": False}
