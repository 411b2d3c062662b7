"""What can be named in a grid, as text."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import attacks
import defenses
from benchmark import claims, data, models
from benchmark.config import about_preset, load_preset, presets
from benchmark.data.image_folders import ImageFolder
from benchmark.errors import InputError
from defenses.support.registry import unknown


def catalogue(what: str | None, width: int | None = None) -> str:
    """Names, parameters with defaults, description and source of one kind, or of all.

    Args:
        what: the kind; None for all.
        width: of the lines, None for one line each.

    Raises:
        InputError: there is no such kind.
    """
    kinds = {
        "defenses": [_class_lines(cls) for cls in defenses.registry],
        "attacks": [*(_class_lines(cls, _needed(cls)) for cls in attacks.registry), _portfolio()],
        "datasets": [_class_lines(cls) for cls in (*data.registry, ImageFolder)],
        "models": [_class_lines(cls) for cls in models.registry],
        "presets": [_lines(name, _preset_summary(name), "") for name in presets()],
        "claims": [_lines(claim.name, claim.statement, claim.source) for claim in map(claims.load, claims.names())],
    }
    if what is not None and what not in kinds:
        raise InputError(unknown("kind", what, kinds))
    shown = kinds if what is None else {what: kinds[what]}
    lines = "\n\n".join(kind + "\n" + "\n".join(entries) for kind, entries in shown.items()).split("\n")
    return "\n".join(lines if width is None else (_wrapped(line, width) for line in lines))


def _wrapped(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(line, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _portfolio() -> str:
    return _lines(f"{attacks.PORTFOLIO}(budget='standard')", "all of these with fixed settings; budgets fast, standard, thorough",
                  "Leakboard")


def _needed(attack: Any) -> str:
    needs = f"needs {', '.join(attack.needs)}; " if attack.needs else ""
    return f"threat model {attack.threat_model}; {needs}"


def _class_lines(cls: Any, before: str = "") -> str:
    fields = [f"{field.name}={field.default!r}" for field in dataclasses.fields(cls)
              if field.init and field.default is not dataclasses.MISSING]
    return _lines(f"{cls.name}({', '.join(fields)})" if fields else cls.name, before + cls.summary, cls.paper)


def _lines(name: str, summary: str, source: str) -> str:
    return f"  {name}\n      {summary}" + (f" [{source}]" if source else "")


def _preset_summary(name: str) -> str:
    content = load_preset(name)
    names = [*content.get("datasets", []), *content.get("models", [])]
    given = {key: len(content[key]) for key in ("defenses", "attacks") if key in content}
    counts = [f"{count} {key if count > 1 else key[:-1]}" for key, count in given.items()]
    return f"{about_preset(name)} [{', '.join([*names, *counts])}]"
