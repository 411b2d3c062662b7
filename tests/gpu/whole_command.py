"""The command itself: uninterrupted, resumed, on models of another run, and two cells on one GPU through Ray."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu.checks import Bench, Check, Row, judged, measured
from gpu.machine import WHOLE_COMMAND

_ROOT = Path(__file__).resolve().parents[2]
#: A plugin by which the processes that attack tell who they are and which GPU they have.
PLUGIN = '''
import json
import os
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks import Attack, Reconstruction


@dataclass(frozen=True)
class WhereAmI(Attack):
    """Rebuilds nothing; writes where it ran."""

    name: ClassVar[str] = "where-am-i"
    summary: ClassVar[str] = "tells the process and the GPU"
    paper: ClassVar[str] = "a check"
    threat_model: ClassVar[str] = "B"

    folder: str = "."

    def informed_by(self, observation):
        return False

    def reconstruct(self, observation, *, seed, progress=None):
        device = observation.device
        told = {"pid": os.getpid(), "device": str(device)}
        if device.type == "cuda":
            told |= {"gpu": str(getattr(torch.cuda.get_device_properties(device), "uuid", "")), "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
                     "allocated": torch.cuda.memory_allocated(device)}
        with open(os.path.join(self.folder, f"{os.getpid()}-{id(observation)}.json"), "w") as file:
            json.dump(told, file)
        if progress is not None:
            progress(1, 1)
        shape = (len(observation), observation.batch_size)
        labels = observation.labels if observation.labels is not None else torch.zeros(shape, dtype=torch.long, device=device)
        return Reconstruction(torch.full((*shape, *observation.image_shape), 0.5, device=device), labels, torch.zeros(len(observation), device=device))
'''
MATCHING, OTHER = "inverting-gradients(iterations=10)", "feature-matching(iterations=10)"


def images(folder: Path) -> Path:
    """Two classes of twenty images of 8x8 pixels."""
    from PIL import Image

    numbers = random.Random(0)
    for place, name in enumerate(("blue", "red")):
        (folder / "shapes" / name).mkdir(parents=True)
        for i in range(20):
            image = Image.new("RGB", (8, 8))
            pixels = [[numbers.randrange(120) + 120 * (channel == 2 - 2 * place) for channel in range(3)] for _ in range(64)]
            for at, pixel in enumerate(pixels):
                image.putpixel((at % 8, at // 8), tuple(pixel))
            image.save(folder / "shapes" / name / f"{i}.png")
    return folder / "shapes"


@lru_cache(maxsize=1)
def _environment(folder: str) -> dict[str, str]:
    """With the repository on the path, and what says that Leakboard is installed where it is not."""
    places = [str(_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    try:
        version("leakboard")
    except PackageNotFoundError:
        said = re.search(r'^version = "(.+)"', (_ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        info = Path(folder) / "leakboard-0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: leakboard\nVersion: {said.group(1) if said else '0'}\n")
        places.append(folder)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), "XDG_CACHE_HOME": str(Path(folder) / "cache")}


class Commands:
    """Runs of one grid in a folder; those that are under way when the context is left are ended."""

    def __init__(self, bench: Bench, folder: Path, defenses: tuple[str, ...] = ("none", "precode")) -> None:
        self._bench, self.folder = bench, folder
        grid = ["--dataset", str(images(folder)), "--model", "lenet", "--epochs", "1", "--victims", "3", "--observed", "single",
                "--candidates", "5", "--checkpoint", "0", "--checkpoint", "-1", "--seed", "0"]
        self._begun: list[subprocess.Popen[str]] = []
        self._grid = [*grid, *(part for defense in defenses for part in ("--defense", defense))]

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._begun:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # so that Ray is ended too
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def start(self, out: str, *attacks: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Begin a run."""
        chosen = [part for attack in attacks for part in ("--attack", attack)]
        program = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from benchmark.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, "run", *self._grid, *chosen, "--device", self._bench.device.type, "--out",
             str(self.folder / out), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder,
            env=_environment(str(self.folder)))
        self._begun.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> str:
        """Wait for a run; what it said last where it failed, else ""."""
        try:
            said = process.communicate(timeout=max(1.0, self._bench.left()))[0]
        except subprocess.TimeoutExpired:
            return "it was not done in time"
        return "" if process.returncode == 0 else f"exit code {process.returncode}: {' '.join(said.split()[-60:])}"

    def tables(self, out: str) -> Any:
        """What was rebuilt, in the order of what it is of."""
        import pandas

        files = sorted((self.folder / out / "cells").rglob("reconstructions.parquet"))
        frame = pandas.concat([pandas.read_parquet(path) for path in files], ignore_index=True)
        by = ["defense", "checkpoint_epoch", "attack", "knowledge", "victim", "image"]
        return frame[frame["attack"].isin([MATCHING, OTHER])].sort_values(by).reset_index(drop=True)


def compared(name: str, found: Any, expected: Any, limit: float) -> Row:
    """The similarity of what was rebuilt."""
    if len(found) != len(expected):
        return judged(name, False, f"{len(found)} rows instead of {len(expected)}", "as many rows")
    apart = float((found["ssim"] - expected["ssim"]).abs().max())
    return judged(name, apart <= limit, f"SSIM of {len(found)} images apart by at most {apart:.2g}", f"at most {limit:g}", apart=apart)


def rows(bench: Bench) -> Iterator[Row]:
    """The tables of a run that was interrupted, in that an attack was added later, and of one on another's models, are those of a run
    at once."""
    with tempfile.TemporaryDirectory(prefix="leakboard-gpu-") as folder, Commands(bench, Path(folder)) as commands:
        first = [commands.start("once", MATCHING, OTHER), commands.start("resumed", MATCHING)]
        for process, name in zip(first, ("a run", "a run with one attack"), strict=True):
            if error := commands.end(process):
                yield judged(name, False, error, "it ends")
                return
        again = [commands.start("resumed", MATCHING, OTHER), commands.start("others", MATCHING, OTHER, options=("--models-from", "once"))]
        expected = commands.tables("once")
        for process, out in zip(again, ("resumed", "others"), strict=True):
            error = commands.end(process)
            yield judged(out, False, error, "it ends") if error else compared(out, commands.tables(out), expected, 0.0)


def ray_rows(bench: Bench) -> Iterator[Row]:
    """Four cells, one and two at once on a GPU: none fails, and tables are those of a run without Ray."""
    grid = ("none", "precode", "noise(std=0.001)", "pruning(p=0.5)")[: 2 if bench.tiny else 4]
    with tempfile.TemporaryDirectory(prefix="leakboard-gpu-") as folder, Commands(bench, Path(folder), grid) as commands:
        seen, plugin = Path(folder) / "seen", Path(folder) / "where_am_i.py"
        seen.mkdir()
        plugin.write_text(PLUGIN)
        attacks = (MATCHING, f"where-am-i(folder={str(seen)!r})")
        options = ("--plugin", str(plugin))
        serial = commands.start("serial", *attacks, options=options)
        if error := commands.end(serial):
            yield judged("without Ray", False, error, "it ends")
            return
        yield measured("without Ray", "done")
        for share in ("0.5",) if bench.tiny else ("0.5", "1"):
            for path in seen.glob("*.json"):
                path.unlink()
            cell = ("--gpus-per-cell", share) if bench.gpu else ("--threads", "1")
            if error := commands.end(commands.start(f"ray-{share}", *attacks, options=(*options, "--executor", "ray", *cell))):
                yield judged(f"a share of {share}", False, error, "no cell fails")
                return
            told = [json.loads(path.read_text()) for path in seen.glob("*.json")]
            yield measured(f"a share of {share}: where", f"{len({one['pid'] for one in told})} processes, GPUs "
                           f"{sorted({one.get('gpu', 'none') for one in told})}", told=told)
            yield compared(f"a share of {share}", commands.tables(f"ray-{share}"), commands.tables("serial"), 1e-4)


CHECK = Check("whole-command", "Are the tables the same, uninterrupted, resumed and on models of another run?", 90, rows, WHOLE_COMMAND)
RAY_CHECK = Check("ray", "Do several cells share a GPU through Ray, and come to the same?", 90, ray_rows, (*WHOLE_COMMAND, "ray"))
