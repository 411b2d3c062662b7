"""How close reconstructions are to the originals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

#: Side of the SSIM window of Wang et al. (2004) as scikit-image sets it; no side of an image may be shorter.
SSIM_WINDOW = 7
#: The constants of its equation 13, with pixels in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2
#: Of fewer pairs one by one is as fast.
_FEW_PAIRS = 4


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
    scores = ssim_of_pairs(originals, reconstructions)
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return [_similarity(originals[i], reconstructions[j], float(scores[i, j]), int(j)) for i, j in zip(rows, columns, strict=True)]


def ssim_of_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """:func:`ssim` of all pairs of images [A, C, H, W] and [B, C, H, W], [A, B].

    One by one as scikit-image computes it, in one go for a gradient of many images, which have thousands of pairs: means and
    variances within windows are those of single images, so that of a pair only the mean of their product is left.
    """
    if len(a) * len(b) < _FEW_PAIRS:
        return np.array([[ssim(one, other) for other in b] for one in a])
    (mean_a, square_a), (mean_b, square_b) = ((_windows(x), _windows(x * x)) for x in (a, b))
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    variance_a, variance_b = unbiased * (square_a - mean_a**2), unbiased * (square_b - mean_b**2)
    found = np.empty((len(a), len(b)))
    for i, (image, mean, variance) in enumerate(zip(a, mean_a, variance_a, strict=True)):
        product = mean * mean_b
        covariance = unbiased * (_windows(image * b) - product)
        similarity = (2 * product + _C1) * (2 * covariance + _C2) / ((mean**2 + mean_b**2 + _C1) * (variance + variance_b + _C2))
        found[i] = similarity.mean((1, 2, 3))
    return found


def _windows(x: np.ndarray) -> np.ndarray:
    """Means over all windows that lie within images [..., H, W]."""
    height, width = (side - SSIM_WINDOW + 1 for side in x.shape[-2:])
    rows: np.ndarray = sum(x[..., i:i + width] for i in range(SSIM_WINDOW))  # type: ignore[assignment]
    means: np.ndarray = sum(rows[..., i:i + height, :] for i in range(SSIM_WINDOW)) / SSIM_WINDOW**2  # type: ignore[assignment]
    return means


def _similarity(original: np.ndarray, reconstruction: np.ndarray, score: float, position: int) -> Similarity:
    with np.errstate(divide="ignore"):  # of equal images it is infinite
        psnr = peak_signal_noise_ratio(original, reconstruction, data_range=1)
    return Similarity(float(mean_squared_error(original, reconstruction)), float(psnr), score, position)
