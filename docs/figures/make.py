"""Take the figures of the concept pages from the report of a run; `make figures` makes both. They are the report's own, as anyone
gets them who runs the quick preset.

    python docs/figures/make.py runs/quick
"""

import shutil
import sys
from pathlib import Path

#: The page that shows it, and the file of the report.
FIGURES = {
    "threat-model": "summary-0-single.svg",
    "blind-and-informed": "mnist5k-lenet-activation=-tanh-single-ssim.svg",
    "identification": "mnist5k-lenet-activation=-tanh-single-pools.svg",
    "safe-accuracy": "mnist5k-lenet-activation=-tanh-tradeoff.svg",
}

if __name__ == "__main__":
    for page, file in FIGURES.items():
        shutil.copyfile(Path(sys.argv[1]) / "report" / "assets" / file, Path(__file__).parent / f"{page}.svg")
