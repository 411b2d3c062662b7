"""The model of a captured gradient: built by a function of the user's own, with the weights that the gradient was taken at."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from benchmark.captured.tensor_files import Expected, opened, read_tensors
from benchmark.errors import InputError
from benchmark.plugins import executed
from defenses import Defense, Plan


def load(function: str, weights: Path, defense: Defense | None, device: torch.device) -> nn.Module:
    """The model with its weights, in evaluation mode.

    Args:
        function: FILE.py:FUNCTION; the file is executed, and the function, called without arguments, returns the model.
        weights: a safetensors file with the model's ``state_dict``, in float32.
        defense: in force, which may extend the model; None leaves it as it is.
        device: where to put it.

    Raises:
        InputError: there is no such model, or the weights are those of another.
    """
    module = _built(function).float()
    try:
        module = module if defense is None else defense.extend_model(module)
    except ValueError as error:
        raise InputError(f"model {function}: {error}") from error
    if not any(p.requires_grad for p in module.parameters()):
        raise InputError(f"model {function} has no trainable parameters")
    with opened(weights, "weights") as file:
        expected = {name: Expected(tuple(t.shape), t.dtype) for name, t in module.state_dict().items()}
        module.load_state_dict(read_tensors(file, f"weights {weights}", expected))
    return module.to(device).eval()


def require_in_force(defense: Defense) -> None:
    """Raise InputError where a parameter of a defense follows from the plan of a training, of which a gradient tells nothing."""
    try:
        planned: Defense | None = defense.planned(Plan(steps_per_epoch=1, images=1))
    except ValueError:  # it needs more of the plan
        planned = None
    if planned != defense:
        raise InputError(f"defense {defense.label} follows from the plan of a training, which is not known here; give what came of "
                         "it instead, such as noise_multiplier")


def _built(function: str) -> nn.Module:
    file, colon, name = function.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise InputError(f"a model is named as FILE.py:FUNCTION, got {function!r}")
    path = Path(file)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the model file {path}: {error.strerror or error}") from error
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    build = getattr(executed(f"leakboard_model_{digest}", str(path), source, "model file"), name, None)
    if not callable(build):
        raise InputError(f"the model file {path} has no function {name!r}")
    try:
        module = build()
    except (Exception, SystemExit) as error:  # foreign code can fail in any way
        raise InputError(f"model {function} fails: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"model {function} must return a torch.nn.Module, got {type(module).__name__}")
    return module
