"""The commands on captured gradients. They import torch only where they compute."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from benchmark.errors import InputError

_Observation = Annotated[Path, typer.Argument(help="A safetensors file with gradients, as docs/how-to/audit.md writes it.")]
_Model = Annotated[str, typer.Option(help="FILE.py:FUNCTION, which returns the model; the file is executed.")]
_Weights = Annotated[Path, typer.Option(help="A safetensors file with the model's state_dict at which the gradients were taken.")]
_Defense = Annotated[Optional[str], typer.Option(
    help='What was done to the gradients, as "noise(std=0.01)"; "none": nothing.', show_default="the attacker is blind")]
_Plugins = Annotated[Optional[list[Path]], typer.Option(
    help="A Python file with defenses or attacks; it is executed; repeatable.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:NUMBER.")]


def identify(
    observation: _Observation,
    model: _Model,
    weights: _Weights,
    candidates: Annotated[Path, typer.Option(help="A folder of images: CLASS/IMAGE, or IMAGE alone.")],
    defense: _Defense = None,
    public: Annotated[Optional[Path], typer.Option(
        help="A folder of other images of the same kind, CLASS/IMAGE; needed for gradients of more than one image.")] = None,
    image_size: Annotated[Optional[int], typer.Option(
        min=1, help="Resize the shorter side of candidates and public images to this, and crop the centre.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Show all candidates, not the first 20 alone.")] = False,
    plugin: _Plugins = None,
    device: _Device = "auto",
) -> int:
    """Rank candidate images by a captured gradient: which of them was it?"""
    with _one_line_errors():
        from benchmark.captured import candidate_images
        from benchmark.captured import identify as identifying

        captured, classes = _captured(observation, model, weights, defense, plugin or [], device)
        read = {kind: candidate_images.read(folder, kind, captured.image_shape, classes, image_size, captured.device)
                for kind, folder in (("candidates", candidates), ("public", public)) if folder is not None}
        with _progress("candidates") as progress:
            method, rankings = identifying.identify(captured, read["candidates"], read.get("public"), progress=progress)
        best = "exact: no attacker does better among these" if method.exact else "not exact: another attacker may do better"
        print(f"{_described(captured)}; {len(read['candidates'])} candidates, by the method {method.name} ({best})")
        if public is not None and method.name != "whitened":
            print("public images are not needed by this method")
        print()
        print(identifying.text(rankings, None if all_ else identifying.SHOWN))
    return 0


def attack(
    observation: _Observation,
    model: _Model,
    weights: _Weights,
    out: Annotated[Path, typer.Option(help="Folder for the images.")],
    attack: Annotated[str, typer.Option(help='As in a grid: "inverting-gradients(iterations=1000)", "portfolio".')]
    = "inverting-gradients",
    defense: _Defense = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the attack.")] = 0,
    plugin: _Plugins = None,
    device: _Device = "auto",
) -> int:
    """Rebuild the images behind a captured gradient, as PNG files."""
    with _one_line_errors():
        from benchmark.captured import rebuild

        captured, _ = _captured(observation, model, weights, defense, plugin or [], device)
        chosen = rebuild.applicable(attack, captured)
        rebuild.prepare(out)
        with _progress("iterations") as progress:
            rebuilt = rebuild.rebuild(captured, chosen, seed=seed, progress=progress)
        print(_described(captured))
        print(rebuild.write(rebuilt, out))
        print(f"images: {out}")
    return 0


def _captured(observation: Path, model: str, weights: Path, defense: str | None, plugins_: list[Path], device: str
              ) -> tuple[Any, int]:
    """The observation, and of how many classes the model has scores."""
    import defenses
    from benchmark import plugins
    from benchmark.captured import model_file, observation_file
    from benchmark.measure.device import choose

    # Opacus and torch tell of their internals here; nothing a user of this command could act on.
    warnings.filterwarnings("ignore", module=r"(opacus|torch)\b")
    chosen = choose(device)
    for path in plugins_:
        plugins.read(path)
    known = None if defense is None else defenses.create(defense)
    if known is not None:
        model_file.require_in_force(known)
    module = model_file.load(model, weights, known, chosen)
    return observation_file.read(observation, module, known, chosen)


def _described(observation: Any) -> str:
    victims, images = len(observation), observation.batch_size
    known = "blind" if observation.defense is None else f"informed of {observation.defense.label}"
    return (f"{victims} gradient{'s' if victims > 1 else ''} of {images} image{'s' if images > 1 else ''}"
            + (f", {len(observation.rounds)} rounds" if len(observation.rounds) > 1 else "") + f"; the attacker is {known}")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """A model of the user's own can fail in many ways under what attackers do with it."""
    try:
        yield
    except (ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)) from error


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """What tells of the steps done on a terminal; elsewhere None."""
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bars:
        bar = bars.add_task(what)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
