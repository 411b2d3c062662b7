"""The error of bad input from outside, and one line for what pydantic finds wrong with it. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(Exception):
    """An argument, file or dataset that cannot be used. Its text is one line: what was given and what is expected."""


def first_error(error: ValidationError, unnamed: Collection[str] = ()) -> str:
    """The first thing that is wrong, with its place and what was given; ``unnamed`` are parts of a place that no reader knows."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in unnamed)
    if first["type"] == "value_error":  # from our own checks, which say what was given
        return ": ".join(filter(None, (where, str(first["ctx"]["error"]))))
    given = "" if first["type"] == "missing" else f", got {shortened(first['input'])}"
    message = first["msg"].replace("Tuple", "List")  # what a file has
    return f"{where or 'the document'}: {message[0].lower()}{message[1:]}{given}"


def shortened(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
