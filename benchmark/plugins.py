"""Defenses and attacks from a file of the user's own."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path

import attacks
import defenses
from benchmark.errors import InputError
from defenses.registry import SpecificationError


def load(path: Path) -> str:
    """Run a Python file and register every Defense and Attack class that it defines.

    Returns:
        The SHA-256 of the file, which becomes part of what identifies a result.

    Raises:
        InputError: the file cannot be read, fails to import, or defines no defense and no attack.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the plugin {path}: {error.strerror or error}") from error
    name = f"leakboard_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    digest = hashlib.sha256(source).hexdigest()
    if name in sys.modules:
        return digest
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"the plugin {path} must be a Python file ending in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while the class is made.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        found = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == name]
        kinds = [cls for cls in found if issubclass(cls, (defenses.Defense, attacks.Attack))]
        if not kinds:
            raise InputError(f"the plugin {path} defines no class derived from defenses.Defense or attacks.Attack")
        for cls in kinds:
            if issubclass(cls, defenses.Defense):
                defenses.registry.register(cls)
            else:
                attacks.registry.register(cls)
    except SpecificationError as error:
        del sys.modules[name]
        raise InputError(f"plugin {path}: {error}") from error
    except InputError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:  # foreign code can fail in any way
        del sys.modules[name]
        reason = " ".join(str(error).split())
        raise InputError(f"the plugin {path} fails to import: {type(error).__name__}: {reason}") from error
    return digest
