"""What all tests share: settings, the data that they make, and the skipping of tests that need real data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_defenses  # noqa: F401 - the registry is the same whichever tests are chosen
from hypothesis import settings
from model_cases import NotForThisModel
from PIL import Image

from benchmark import plugins

pytest_plugins = ["tuning_cases"]

settings.register_profile("leakboard", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("leakboard")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except NotForThisModel as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    """Keep decoded images of the tests out of the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def real_data() -> None:
    if not os.environ.get("LEAKBOARD_DATA"):
        pytest.skip("needs LEAKBOARD_DATA, a folder with the real data sets")


@pytest.fixture
def without_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAKBOARD_DATA", raising=False)


@pytest.fixture(scope="module")
def short_fits():
    """Scores fit what was drawn at the client; where it counts that they do, and not how well, few iterations will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attacks.search.fitted._ITERATIONS", 6)
        yield


@pytest.fixture
def clean_registry():
    """Ends what plugins of a test have registered; returns what does so at once."""
    registries = list(plugins._REGISTRIES.values())
    before = [dict(registry._classes) for registry in registries], {name for name in sys.modules if name.startswith("leakboard_plugin_")}

    def clean() -> None:
        for registry, classes in zip(registries, before[0], strict=True):
            registry._classes.clear()
            registry._classes.update(classes)
        for name in [name for name in sys.modules if name.startswith("leakboard_plugin_") and name not in before[1]]:
            del sys.modules[name]

    yield clean
    clean()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny classifiable RGB images: CLASS/N.png, two classes of different colour, 8x8, 20 a class."""
    root = tmp_path_factory.mktemp("shapes") / "shapes"
    generator = np.random.default_rng(0)
    for place, name in enumerate(("blue", "red")):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[..., 2 - 2 * place] += 120
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root
