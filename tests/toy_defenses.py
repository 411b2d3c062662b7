"""Defenses that lie in a file each and that nothing else knows: they are brought as a user brings a plugin, and the contract tests run
over them."""

from __future__ import annotations

from pathlib import Path

import defenses
from benchmark import plugins

_built_in = set(defenses.registry.names())
for _path in sorted((Path(__file__).parent / "toys").glob("*.py")):
    plugins.read(_path)

#: Their names.
TOYS = [name for name in defenses.registry.names() if name not in _built_in]
