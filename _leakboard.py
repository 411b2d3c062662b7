"""The command ``leakboard``, and what tells its packages from a user's own modules of the same names.

``defenses``, ``attacks``, ``benchmark`` and ``reports`` are common names: a file or folder of that name beside a script hides ours.
This module has a name of its own, so that it is found whatever is hidden, and imports none of them before they are known to be
ours.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("defenses", "attacks", "benchmark", "reports")
_HOME = Path(__file__).resolve().parent


class NameCollision(ImportError):
    """Something else is imported by the name of a package of leakboard."""


def require_own(*names: str) -> None:
    """Make sure that packages are imported from beside this module; imports none of them.

    Raises:
        NameCollision: one is not; the text names it, what hides it, and where ours is.
    """
    for name in names:
        found, ours = _found(name), _HOME / name
        if found is not None and found != ours:
            raise NameCollision(f"the name {name!r} is taken: Python imports it from {found}, which hides leakboard's own package "
                                f"{ours}; rename {found.name}, or take its folder off the path (Python looks beside the script and "
                                "in PYTHONPATH first)", name=name, path=str(found))


def _found(name: str) -> Path | None:
    """The file or folder that a name is imported from, or would be; None where there is none, which importing tells by itself."""
    spec = find_spec(name)
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return None
    return Path(next(iter(spec.submodule_search_locations or ()), str(spec.origin))).resolve()


def main() -> None:
    """The console script."""
    try:
        require_own(*_PACKAGES)
    except NameCollision as error:
        print(f"leakboard: error: {error}", file=sys.stderr)
        sys.exit(2)
    from benchmark.cli import main as command

    command()


if __name__ == "__main__":
    main()
