"""The library that makes tables sortable and searchable: DataTables, as the package itables ships it."""

from __future__ import annotations

import re
from importlib import resources

_EXPORTS = re.compile(r"export\{([^{}]*)\};?")


def script() -> str:
    """DataTables with its extensions as a classic script that sets ``DataTable``.

    The package holds it as a module, which browsers do not load from a page that is opened from disk.

    Raises:
        RuntimeError: the package holds it in another form than was expected.
    """
    module = _read("dt_bundle.js")
    exports = list(_EXPORTS.finditer(module))
    pairs = [part.split(" as ") for part in exports[-1][1].split(",")] if exports else []
    names = {pair[-1]: pair[0] for pair in pairs}
    if "default" not in names or re.search(r"^\s*import[ {]", module, re.MULTILINE):
        raise RuntimeError("the installed itables ships DataTables in an unknown form; expected a module with a default export")
    start, end = exports[-1].span()
    return f"(function () {{\n{module[:start]}\nwindow.DataTable = {names['default']};\n{module[end:]}\n}})();\n"


def style() -> str:
    """The style sheet that belongs to it."""
    return _read("dt_bundle.css")


def _read(name: str) -> str:
    return resources.files("itables").joinpath("html", name).read_text(encoding="utf-8")
