"""Reading what people write in YAML. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from benchmark.errors import InputError


class _Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does: 1e-3 is a number, and off, no and their like are texts; PyYAML knows YAML 1.1."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."))


def read(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a file; ``what`` it is stands in the error.

    Raises:
        InputError: it cannot be read or is no mapping.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the {what} {path}: {error}") from error
    return parse(text, str(path))


def name_of(path: Path) -> str:
    """A name after that of a file, of letters, digits and a few signs."""
    return "".join(c if c.isalnum() or c in "_.-" else "-" for c in path.stem)[:80]


def parse(text: str, origin: str) -> dict[str, Any]:
    """A text as a mapping; ``origin`` is named in the error.

    Raises:
        InputError: it is none.
    """
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InputError(f"{origin} must be a mapping of keys such as datasets and defenses, got {type(content).__name__}")
    return content
