"""Run folders of many synthetic cells, as ``leakboard run`` would have made them: it finds nothing left to do in one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save

from benchmark.config import Grid, make_grid
from benchmark.run import runner
from benchmark.specification import CellSpec
from benchmark.store import recording
from benchmark.store.layout import images_key

#: Data sets, models, defenses and seeds by the number of cells.
SHAPES = {100: (1, 1, 10, 10), 1_000: (1, 2, 50, 10), 10_000: (4, 5, 50, 10)}
_MODELS = ["lenet", "lenet(activation=tanh)", "mlp", "torchvision:resnet18", "torchvision:resnet34"]
_ATTACKS = ["inverting-gradients(iterations=300)", "analytic", "likelihood(iterations=300)"]
_EPOCHS, _VICTIMS, _CANDIDATES = 3, 8, 100
#: Pixels of a side of the images.
_SIDE = 8


def grid_of(folder: Path, shape: tuple[int, int, int, int], *, tuned: bool = False) -> Grid:
    """A grid of data sets x models x defenses x seeds cells, whose data sets are made in the folder where they are not there. Tuned
    over two step sizes, or not."""
    datasets, models, defenses, seeds = shape
    return make_grid({
        "name": "growth", "datasets": [str(_images(folder / f"data{d}", d)) for d in range(datasets)], "models": _MODELS[:models],
        "defenses": ["none", f"noise(std=[{', '.join(f'{i / 1000:g}' for i in range(1, defenses))}])"], "attacks": _ATTACKS,
        "seeds": list(range(seeds)),
        "training": {"epochs": _EPOCHS, **({} if tuned else {"batch_size": 8})},
        "tuning": {"step_sizes": [1e-3, 1e-2], "batch_sizes": [8]} if tuned else None,
        "evaluation": {"checkpoints": [0, -1], "victims": _VICTIMS, "observed": ["single"], "candidates": _CANDIDATES},
    }, "growth")


def grown_run(folder: Path, shape: tuple[int, int, int, int], *, tuned: bool = False, share: float = 1.0) -> Path:
    """Write the run folder of :func:`grid_of`; of its cells only the first ``share``."""
    run = folder / "run"
    plan = runner.prepare(grid_of(folder, shape, tuned=tuned), run, torch.device("cpu"))
    plan.lock.release()
    generator = np.random.default_rng(0)
    weights = save({"weight": np.zeros(16, np.float32)})
    for key, trial in plan.trials.items():
        accuracy = generator.random()
        recording.write_trial(run, key, info={**trial.model_dump(), "seconds": 1.0}, trial=[
            {**trial.model_dump(), "defense_params": "{}", "epoch": epoch, "train_loss": 0.5 if epoch else None,
             "validation_accuracy": accuracy * epoch / _EPOCHS, "epsilon": None, "delta": None, "seconds": 1.0}
            for epoch in range(_EPOCHS + 1)])
    for key, spec in list(plan.cells.items())[: round(share * len(plan.cells))]:
        recording.write_trained(run, key, info={**spec.model_dump(), "checkpoints": [0, _EPOCHS], "seconds": 1.0},
                                training=_training(spec, generator), weights={0: weights, _EPOCHS: weights})
        place = {**spec.model_dump(), "defense_params": "{}", "observed": "single", "batch_size": 1}
        known = ["both"] if spec.defense == "none" else ["blind", "informed"]
        for attack_key, attack in plan.attacks.items():
            rows = [{**place, "checkpoint_epoch": epoch, "attack": attack.attack, "attack_params": "{}", "knowledge": knowledge,
                     "victim": victim, "image": 0, "mse": 0.1, "psnr": 10.0, "ssim": ssim, "label_correct": None, "cost": 0.5,
                     "score": -ssim, "blind_score": None if knowledge == "informed" else -ssim, "seconds": 2.0}
                    for epoch in (0, _EPOCHS) for knowledge in known for victim, ssim in enumerate(generator.random(_VICTIMS).tolist())]
            originals = np.random.default_rng(spec.seed).integers(0, 8, (_VICTIMS, 1, 3, _SIDE, _SIDE), dtype=np.uint8)
            images = {"original": originals, **{images_key(epoch, attack.attack, knowledge): originals + np.uint8(100)
                                                for epoch in (0, _EPOCHS) for knowledge in known}}
            recording.write_attacked(run, key, attack_key, reconstructions=rows, images=images, info={
                "attack": attack.attack, "observed": "single", "inapplicable": [], "seconds": 2.0})
        for identification in plan.identifications:
            found = [{**place, "checkpoint_epoch": epoch, "knowledge": knowledge, "method": "likelihood", "exact": False,
                      "victim": victim, "candidates": _CANDIDATES, "better": better, "tied": 0, "label_share": None, "mu": None,
                      "seconds": 0.01}
                     for epoch in (0, _EPOCHS) for knowledge in known
                     for victim, better in enumerate(generator.integers(0, _CANDIDATES, _VICTIMS).tolist())]
            recording.write_identified(run, key, identification, identifications=found, info={
                "observed": "single", "candidates": _CANDIDATES, "inapplicable": [], "seconds": 1.0})
    return run


def _training(spec: CellSpec, generator: np.random.Generator) -> list[dict]:
    accuracies = 0.3 + 0.5 * generator.random() * np.linspace(0, 1, _EPOCHS + 1)
    return [{**spec.model_dump(), "defense_params": "{}", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 8, "epoch": epoch,
             "train_loss": 0.5 if epoch else None, "test_accuracy": accuracy, "test_images": 1000, "chance": 0.1, "epsilon": None,
             "delta": None, "seconds": 1.0, "step_memory": 1000 if epoch == 1 else None, "sent_bytes": 4000 if epoch == 1 else None,
             "rounds": 10 * epoch}
            for epoch, accuracy in enumerate(accuracies.tolist())]


def _images(folder: Path, seed: int) -> Path:
    """A folder of small images."""
    generator = np.random.default_rng(seed)
    for label in ("a", "b"):
        if not (place := folder / label).is_dir():
            place.mkdir(parents=True)
            for i in range(100):
                Image.fromarray(generator.integers(0, 255, (_SIDE, _SIDE, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


#: What is measured of a run folder, each in a process of its own, by the folder, the shape of its grid and whether it was tuned.
_STEPS = {
    "plan": """
found = runner.identify(grid, torch.device("cpu"))
print(planning.describe(planning.planned(found, folder / "run")).splitlines()[-1])
""",
    "resume": """
outcome = runner.run(runner.prepare(grid, folder / "run", torch.device("cpu")), LogLines(Console(file=io.StringIO())))
print(outcome.kept, outcome.finished, outcome.failed)
""",
    "report": """
write_report([folder / "run"], folder / "site")
""",
}
_BEGIN = """
import io, sys
from pathlib import Path
folder, shape, tuned = Path(sys.argv[1]), tuple(map(int, sys.argv[2].split(","))), sys.argv[3] == "True"
"""
_BEGIN_RUN = _BEGIN + """
import torch
from rich.console import Console
from growth_cases import grid_of
from benchmark.run import planning, runner
from benchmark.run.progress import LogLines
grid = grid_of(folder, shape, tuned=tuned)
"""
_BEGIN_REPORT = _BEGIN + """
from reports.site import write_report
"""
STEPS = tuple(_STEPS)


@dataclass(frozen=True)
class Cost:
    """What a step took: seconds of the processor, user and system, in all its processes; the most bytes that these held at once, pages
    that they share counted in each; and what it said."""

    seconds: float
    peak: int
    said: str


def cost(step: str, folder: Path, shape: tuple[int, int, int, int], *, tuned: bool = False) -> Cost:
    """Measure a step on a run folder in a process of its own, as Linux tells it."""
    script = (_BEGIN_REPORT if step == "report" else _BEGIN_RUN) + _STEPS[step]
    process = subprocess.Popen([sys.executable, "-c", script, str(folder), ",".join(map(str, shape)), str(tuned)], stdout=subprocess.PIPE,
                               text=True, cwd=Path(__file__).parent, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    seconds: dict[int, float] = {}
    peak = 0
    while process.poll() is None:
        family = _family(process.pid)
        seconds |= {pid: taken for pid, taken, _ in family}
        peak = max(peak, sum(held for *_, held in family))
        time.sleep(0.05)
    assert process.returncode == 0
    return Cost(sum(seconds.values()), peak, process.stdout.read().strip())


def _family(pid: int) -> list[tuple[int, float, int]]:
    """Of a process and all that it started: identifier, seconds of the processor, bytes held."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    processes, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(fields[1])
        processes[int(folder.name)] = (int(folder.name), (int(fields[11]) + int(fields[12])) / tick, int(fields[21]) * page)

    def belongs(child: int) -> bool:
        while child in parents and child != pid:
            child = parents[child]
        return child == pid

    return [found for child, found in processes.items() if belongs(child)]
