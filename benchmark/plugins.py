"""Defenses, attacks, models and data sets from a file of the user's own."""

from __future__ import annotations

import hashlib
import inspect
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attacks
import defenses
from benchmark import data, models
from benchmark.errors import InputError
from defenses.support.registry import Registry, SpecificationError

#: Where the classes of a plugin are registered, by the base that they derive from.
_REGISTRIES: dict[str, Registry[Any]] = {
    "defenses.Defense": defenses.registry, "attacks.Attack": attacks.registry, "benchmark.models.Model": models.registry,
    "benchmark.data.DatasetBuilder": data.registry,
}


@dataclass(frozen=True)
class Plugin:
    """A plugin that was read: where, its content and the SHA-256 of that, which becomes part of what identifies a result, and the
    name of the module that it becomes."""

    path: str
    source: bytes
    digest: str
    module: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return Path(self.path).name


def read(path: Path) -> Plugin:
    """Read a plugin, run it, and register every class of a defense, attack, model or data set that it defines.

    Raises:
        InputError: the file cannot be read, fails to run, or defines no such class.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the plugin {path}: {error.strerror or error}") from error
    if path.suffix != ".py":
        raise InputError(f"the plugin {path} must be a Python file ending in .py")
    digest = hashlib.sha256(source).hexdigest()
    plugin = Plugin(str(path), source, digest, f"leakboard_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}")
    load(plugin)
    return plugin


def load(plugin: Plugin) -> None:
    """Run a plugin that was read, here or in another process, unless this process has done so.

    Raises:
        InputError: it fails to run, or defines nothing that can be registered.
    """
    if plugin.module in sys.modules:
        return
    try:
        module = executed(plugin.module, plugin.path, plugin.source, "plugin")
        found = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == plugin.module]
        kinds = [(registry, cls) for cls in found for registry in _REGISTRIES.values() if issubclass(cls, registry.base)]
        if not kinds:
            raise InputError(f"the plugin {plugin.path} defines no class derived from {', '.join(_REGISTRIES)}")
        for registry, cls in kinds:
            registry.register(cls)
    except SpecificationError as error:
        sys.modules.pop(plugin.module, None)
        raise InputError(f"plugin {plugin.path}: {error}") from error
    except InputError:
        sys.modules.pop(plugin.module, None)
        raise


def executed(name: str, path: str, source: bytes, kind: str) -> types.ModuleType:
    """Run a file of the user's own as a module of that name.

    Raises:
        InputError: it fails; the text says what ``kind`` of file it is.
        SpecificationError: it defines a class that cannot be used.
    """
    module = types.ModuleType(name)
    # Dataclasses look their module up by name while the class is made.
    sys.modules[name] = module
    module.__file__ = path
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except (InputError, SpecificationError):
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:  # foreign code can fail in any way
        del sys.modules[name]
        reason = " ".join(str(error).split())
        raise InputError(f"the {kind} {path} fails to import: {type(error).__name__}: {reason}") from error
    return module
