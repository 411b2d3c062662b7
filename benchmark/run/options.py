"""From the options of the command to what is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark import config as configuration
from benchmark import plugins
from benchmark.config import Grid
from benchmark.errors import InputError
from benchmark.plugins import Plugin


def chosen(options: dict[str, Any]) -> tuple[Grid, Path, list[Plugin]]:
    """The grid, run folder and loaded plugins that the options of ``leakboard run`` mean.

    Raises:
        InputError: a file cannot be used, or an option is not acceptable.
    """
    loaded = [plugins.read(path) for path in options["plugin"] or []]
    config, preset = options["config"], options["preset"]
    if config is not None and preset is not None:
        raise InputError(f"give either a grid file or --preset, not both: {config} and {preset}")
    origin = str(config) if config is not None else f"preset {preset or 'quick'}"
    content = configuration.load_file(config) if config is not None else configuration.load_preset(preset or "quick")
    named = {"datasets": "dataset", "models": "model", "defenses": "defense", "attacks": "attack", "seeds": "seed"}
    _override(content, {**{key: options[option] for key, option in named.items()}, "image_size": options["image_size"]})
    _override_section(content, "training", {"epochs": options["epochs"]})
    if options["tuning"] is False or (options["tuning"] and configuration.tuning_meant(content.get("tuning")) is None):
        content["tuning"] = options["tuning"]
    _override_section(content, "evaluation", {
        "checkpoints": options["checkpoint"],
        **{key: options[key] for key in ("victims", "observed", "labels", "candidates")}})
    grid = configuration.make_grid(content, f"{origin} with the options given")
    return grid, options["out"] if options["out"] is not None else Path("runs") / grid.name, loaded


def _override(content: dict[str, Any], given: dict[str, Any]) -> None:
    content.update({key: value for key, value in given.items() if value is not None and value != []})


def _override_section(content: dict[str, Any], section: str, given: dict[str, Any]) -> None:
    given = {key: value for key, value in given.items() if value is not None and value != []}
    if given and isinstance(content.setdefault(section, {}), dict):
        content[section] = {**content[section], **given}
