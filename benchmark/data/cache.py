"""Decoded images in the platform's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs

from benchmark.data.base import DecodedImages

log = logging.getLogger("leakboard")

_CACHE_VERSION = 1


def cached(identity: str, decode: Callable[[], DecodedImages]) -> DecodedImages:
    """The decoded images from the cache folder, else decoded now and put there; a broken cache file is made anew."""
    key = hashlib.sha256(f"{_CACHE_VERSION}:{identity}".encode()).hexdigest()[:24]
    path = platformdirs.user_cache_path("leakboard") / "decoded" / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = [stored[name] for name in ("train_pixels", "train_labels", "test_pixels", "test_labels")]
            return DecodedImages(tuple(json.loads(str(stored["classes"]))), *arrays)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        log.warning("the cached copy %s is damaged and is made anew: %s", path, error)
    decoded = decode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            np.savez(file, classes=json.dumps(decoded.classes), train_pixels=decoded.train_pixels,
                     train_labels=decoded.train_labels, test_pixels=decoded.test_pixels, test_labels=decoded.test_labels)
        Path(file.name).replace(path)
    except OSError as error:
        log.warning("decoded images are not cached in %s: %s", path.parent, error)
    return decoded
