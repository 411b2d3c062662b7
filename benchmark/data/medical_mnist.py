"""Medical MNIST, which its user puts into the data root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from benchmark.data.base import DatasetBuilder


@dataclass(frozen=True)
class MedicalMNIST(DatasetBuilder):
    """Radiographs and tomographs of six body parts."""

    name: ClassVar[str] = "medical-mnist"
    summary: ClassVar[str] = "Medical MNIST, 64x64 grey, 6 classes; put medical-mnist.zip in the data root"
    paper: ClassVar[str] = "Lozano, 2017"
