"""Defenses and attacks from a file of the user's own."""

from __future__ import annotations

import hashlib
import inspect
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import attacks
import defenses
from benchmark.errors import InputError
from defenses.support.registry import SpecificationError


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
    """Read a plugin, run it, and register every Defense and Attack class that it defines.

    Raises:
        InputError: the file cannot be read, fails to run, or defines no defense and no attack.
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
        InputError: it fails to run, or defines no defense and no attack.
    """
    if plugin.module in sys.modules:
        return
    module = types.ModuleType(plugin.module)
    # Dataclasses look their module up by name while the class is made.
    sys.modules[plugin.module] = module
    module.__file__ = plugin.path
    try:
        exec(compile(plugin.source, plugin.path, "exec"), module.__dict__)
        found = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == plugin.module]
        kinds = [cls for cls in found if issubclass(cls, (defenses.Defense, attacks.Attack))]
        if not kinds:
            raise InputError(f"the plugin {plugin.path} defines no class derived from defenses.Defense or attacks.Attack")
        for cls in kinds:
            if issubclass(cls, defenses.Defense):
                defenses.registry.register(cls)
            else:
                attacks.registry.register(cls)
    except SpecificationError as error:
        del sys.modules[plugin.module]
        raise InputError(f"plugin {plugin.path}: {error}") from error
    except InputError:
        del sys.modules[plugin.module]
        raise
    except (Exception, SystemExit) as error:  # foreign code can fail in any way
        del sys.modules[plugin.module]
        reason = " ".join(str(error).split())
        raise InputError(f"the plugin {plugin.path} fails to import: {type(error).__name__}: {reason}") from error
