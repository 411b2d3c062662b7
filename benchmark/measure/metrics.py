"""How close reconstructions are to the originals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

#: Side of the SSIM window of Wang et al. (2004) as scikit-image sets it; no side of an image may be shorter.
SSIM_WINDOW = 7


@dataclass(frozen=True)
class Similarity:
    """Of one reconstruction to its original: mean squared error of pixels in [0, 1], PSNR in dB, SSIM in [-1, 1].

    ``position`` is the place of the reconstruction in its batch.
    """

    mse: float
    psnr: float
    ssim: float
    position: int


def ssim(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """SSIM (Wang et al., 2004; scikit-image, data_range 1) of two images [C, H, W] in [0, 1]."""
    return float(structural_similarity(original, reconstruction, data_range=1.0, channel_axis=0, win_size=SSIM_WINDOW))


def compare(originals: np.ndarray, reconstructions: np.ndarray) -> list[Similarity]:
    """Similarity of each original [B, C, H, W] to the reconstruction assigned to it.

    The order of the images behind one gradient is unknown to an attacker, so reconstructions are assigned one to one such that
    the summed SSIM is highest.
    """
    originals, reconstructions = originals.astype(np.float64), reconstructions.astype(np.float64)
    scores = np.array([[ssim(original, candidate) for candidate in reconstructions] for original in originals])
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return [_similarity(originals[i], reconstructions[j], float(scores[i, j]), int(j)) for i, j in zip(rows, columns, strict=True)]


def _similarity(original: np.ndarray, reconstruction: np.ndarray, score: float, position: int) -> Similarity:
    with np.errstate(divide="ignore"):  # of equal images it is infinite
        psnr = peak_signal_noise_ratio(original, reconstruction, data_range=1)
    return Similarity(float(mean_squared_error(original, reconstruction)), float(psnr), score, position)
