"""No protection: the reference that every defense is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.base import Defense


@dataclass(frozen=True)
class NoDefense(Defense):
    """The client shares its plain gradient."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "the plain gradient"
    paper: ClassVar[str] = "McMahan et al., AISTATS 2017"

    @property
    def plain(self) -> bool:
        return True
