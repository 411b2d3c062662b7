from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data import DatasetBuilder, DecodedImages, datasets, image_folders, registry
from benchmark.errors import InputError

CPU = torch.device("cpu")


def write_images(root: Path, layout: dict[str, int], size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """Write N images per folder; the grey value is the number of the image."""
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new(mode, size, i if mode == "L" else (i, i, i)).save(root / folder / f"{i:03}.png")
    return root


def zipped(folder: Path, prefix: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def test_embedded_digits():
    dataset = datasets.load(datasets.find("mnist5k"), CPU)
    assert (len(dataset.train), len(dataset.test), dataset.train.image_shape) == (4000, 1000, (1, 28, 28))
    assert torch.bincount(dataset.train.labels).tolist() == [400] * 10
    again = datasets.load(datasets.find("mnist5k"), CPU)  # from the cache
    assert again.fingerprint == dataset.fingerprint


@pytest.mark.parametrize("kind", ["folder", "zip", "zip with one folder around"])
def test_split_by_class_with_a_fixed_seed(tmp_path, kind):
    folder = write_images(tmp_path / "set", {"cat": 10, "dog": 5})
    path = {"folder": lambda: folder, "zip": lambda: zipped(folder), "zip with one folder around": lambda: zipped(folder, "set/")}[kind]()
    decoded = image_folders.read(path)
    assert decoded.classes == ("cat", "dog")
    assert np.bincount(decoded.train_labels).tolist() == [8, 4] and np.bincount(decoded.test_labels).tolist() == [2, 1]
    everything = sorted(decoded.train_pixels[:, 0, 0, 0].tolist() + decoded.test_pixels[:, 0, 0, 0].tolist())
    assert everything == sorted([*range(10), *range(5)])
    assert (image_folders.read(path).test_pixels == decoded.test_pixels).all()


def test_train_and_test_folders(tmp_path):
    folder = write_images(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 1})
    decoded = image_folders.read(zipped(folder))
    assert decoded.classes == ("a", "b")
    assert decoded.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and decoded.test_labels.tolist() == [0, 0, 1]


def test_pixels_are_those_of_the_files_and_normalised_on_the_fly(tmp_path):
    root = tmp_path / "set"
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)).save(root / label / f"{i}.png")
    dataset = datasets.load(datasets.find(str(root)), CPU)
    x, y = dataset.train.batch(torch.tensor([5, 0]))
    decoded = image_folders.read(root)
    pixels = torch.from_numpy(decoded.train_pixels).permute(0, 3, 1, 2).double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    torch.testing.assert_close(x.double(), ((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))[[5, 0]], rtol=0, atol=1e-5)
    assert y.tolist() == decoded.train_labels[[5, 0]].tolist()
    torch.testing.assert_close(dataset.train.pixels(torch.tensor([5])).double() / 255, pixels[5:6], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("file", "asked"), [
    ("my-set.zip", "my-set"), ("my_set.zip", "my-set"), ("my-set.zip", "my_set"), ("my_set", "my-set")])
def test_found_in_the_data_root_under_either_spelling(tmp_path, file, asked):
    folder = write_images(tmp_path / "source", {"a": 2, "b": 2})
    if file.endswith(".zip"):
        shutil.move(zipped(folder), tmp_path / file)
    else:
        folder.rename(tmp_path / file)
    assert datasets.find(asked, tmp_path).builder.path == tmp_path / file


def test_mixed_grey_and_colour_is_colour_and_images_can_be_resized(tmp_path):
    root = write_images(tmp_path / "set", {"a": 2}, size=(20, 10))
    write_images(root, {"b": 2}, size=(10, 30), mode="RGB")
    with pytest.raises(InputError, match=r"different sizes.*give an image size"):
        image_folders.read(root)
    assert image_folders.read(root, 8).train_pixels.shape[1:] == (8, 8, 3)


@pytest.mark.parametrize(("prepare", "message"), [
    (lambda p: write_images(p, {"only": 3}), "at least two classes, one folder each, found 1 ('only')"),
    (lambda p: p.mkdir() or p, "holds no images"),
    (lambda p: write_images(p, {"train/a": 1, "train/b": 1, "test/c": 1}), "test images of a class without training images: 'c'"),
    (lambda p: (write_images(p, {"a": 1, "b": 1}) / "a" / "x.png").write_bytes(b"no image") and p, "cannot be decoded"),
    (lambda p: (write_images(p, {"a": 1, "b": 1}) / "x.png").write_bytes(b"") or p, "outside of any class folder"),
    (lambda p: p.with_suffix(".zip").write_bytes(b"PK no zip") and p.with_suffix(".zip"), "not a readable zip file"),
])
def test_unusable_data_is_refused_in_one_line(tmp_path, prepare, message):
    with pytest.raises(InputError) as error:
        image_folders.read(prepare(tmp_path / "set"))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_zip_is_refused(tmp_path):
    path = zipped(write_images(tmp_path / "set", {"a": 4, "b": 4}))
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"set\.zip"):
        image_folders.read(path)


@pytest.mark.parametrize(("name", "message"), [
    ("cifr10", "did you mean 'cifar10'"),
    ("medical-mnist", "put medical-mnist.zip or the folder medical-mnist"),
    ("./nothing.zip", "does not exist"),
])
def test_absent_data_says_what_to_put_where(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        datasets.find(name, tmp_path)


def test_a_data_root_that_is_none_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="data root"):
        datasets.find("cifar10", tmp_path / "nowhere")
    monkeypatch.setenv("LEAKBOARD_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="data root"):
        datasets.find("cifar10")


def test_a_failing_download_says_what_to_put_where(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(InputError, match=r"could not be downloaded.*put cifar10\.zip"):
        datasets.load(datasets.find("cifar10", tmp_path), CPU)


def test_torchvisions_own_layout_is_read(tmp_path):
    """Fashion-MNIST in the raw files that torchvision keeps, without a download."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 6), ("t10k", 3)):
        header = (0x803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + bytes(range(count)) * 28 * 28)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes((0x801).to_bytes(4, "big") + count.to_bytes(4, "big") + bytes(range(count)))
    dataset = datasets.load(datasets.find("fashion-mnist", tmp_path), CPU)
    assert (len(dataset.train), len(dataset.test), len(dataset.classes)) == (6, 3, 10)


def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_images(tmp_path / "set", {"a": 5, "b": 5})
    first = datasets.load(datasets.find(str(folder)), CPU)
    (cached,) = (tmp_path / "cache" / "leakboard" / "decoded").iterdir()
    cached.write_bytes(cached.read_bytes()[:100])
    assert datasets.load(datasets.find(str(folder)), CPU).fingerprint == first.fingerprint
    assert "made anew" in caplog.text


def test_a_changed_file_is_decoded_again(tmp_path):
    folder = write_images(tmp_path / "set", {"a": 5, "b": 5})
    first = datasets.load(datasets.find(str(folder)), CPU)
    Image.new("L", (8, 8), 200).save(folder / "a" / "000.png")
    assert datasets.load(datasets.find(str(folder)), CPU).fingerprint != first.fingerprint


@pytest.mark.slow
@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize(("name", "classes", "train", "test", "shape"), [
    ("cifar10", 10, 12_000, 3_000, (3, 32, 32)), ("cifar100", 100, 12_000, 3_000, (3, 32, 32)),
    ("medical-mnist", 6, 7_200, 1_800, (1, 64, 64))])
def test_real_data(name, classes, train, test, shape):
    dataset = datasets.load(datasets.find(name), CPU)
    assert (len(dataset.classes), len(dataset.train), len(dataset.test), dataset.train.image_shape) == (classes, train, test, shape)


@pytest.mark.parametrize(("add", "limits", "message"), [
    (lambda z: z.writestr("../a/x.png", b"x"), {}, r"outside of itself: '../a/x.png'"),
    (lambda z: z.writestr("/etc/a/x.png", b"x"), {}, "outside of itself"),
    (lambda z: z.writestr("C:\\a\\x.png", b"x"), {}, "outside of itself"),
    (lambda z: z.writestr("a/bomb.png", bytes(5_000_000), zipfile.ZIP_DEFLATED), {}, "unpacks from .* to 5,000,000 bytes"),
    (lambda z: z.writestr("a/big.png", bytes(2000)), {"_LARGEST_ENTRY": 1000}, "big.png' has 2,000 bytes"),
    (lambda z: None, {"_MOST_ENTRIES": 7}, "has 8 files; a zip may have 7"),
    (lambda z: None, {"_LARGEST_TOTAL": 300}, "unpacks to"),
])
def test_a_zip_has_limits(tmp_path, monkeypatch, add, limits, message):
    path = zipped(write_images(tmp_path / "set", {"a": 4, "b": 4}))
    image_folders.read(path)
    for name, value in limits.items():
        monkeypatch.setattr(image_folders, name, value)
    with zipfile.ZipFile(path, "a") as archive:
        add(archive)
    with pytest.raises(InputError, match=message):
        image_folders.read(path)
    assert {p.name for p in tmp_path.iterdir()} == {"set", "set.zip"}


@pytest.mark.parametrize("limit", [20, 50])
def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch, limit):
    """64 pixels: more than the limit, where Pillow only warns, or more than twice as many."""
    path = write_images(tmp_path / "set", {"a": 2, "b": 2})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match=r"cannot be decoded, 'a/000.png': Image size \(64 pixels\) exceeds limit"):
        image_folders.read(path)


@pytest.mark.parametrize("written", ["./deep/set", "deep/set/", "deep/../deep/set", "{here}/deep/set", "~/deep/set"])
def test_a_folder_has_one_name_however_its_path_is_written(tmp_path, monkeypatch, written):
    write_images(tmp_path / "deep" / "set", {"a": 2, "b": 2})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = datasets.find(written.format(here=tmp_path))
    assert found.name == "set" == datasets.load(found, CPU).name
    assert datasets.find(str(zipped(tmp_path / "deep" / "set"))).name == "set"


@dataclass(frozen=True)
class Ramp(DatasetBuilder):
    name: ClassVar[str] = "ramp"

    count: int = 6
    kind: str = "uint8"

    def decode(self, data_root):
        pixels = np.zeros((self.count, 4, 4, 1), dtype=self.kind)
        labels = np.arange(self.count) % 2
        return DecodedImages(("even", "odd"), pixels, labels, pixels, labels + 5 * (self.count == 7))


@pytest.fixture
def ramp():
    registry.register(Ramp)
    yield
    del registry._classes["ramp"]


@pytest.mark.parametrize(("asked", "message"), [
    ("ramp( count = 8 )", None), ("ramp(cuont=8)", "unknown parameter of dataset ramp 'cuont'; did you mean 'count'"),
    ("rmap", "unknown dataset 'rmap'; did you mean 'ramp'"), ("ramp(count=)", "expected NAME or NAME"),
    ("ramp(kind='a/b')", "dataset ramp.* cannot be decoded: TypeError: "),
    ("ramp(kind='float32')", r"train_pixels must be uint8 of shape \[N, H, W, C\], got float32 of \[6, 4, 4, 1\]"),
    ("ramp(count=7)", "test_labels must be 0 to 1, got 5 to 6"), ("ramp(count=-1)", "ValueError"),
    ("ramp(count=0)", "has no test images"),
])
def test_a_registered_class_is_found_by_name_and_parameters(tmp_path, ramp, asked, message):
    if message is None:
        found = datasets.find(asked, tmp_path)
        assert found.name == "ramp(count=8)" and len(datasets.load(found, CPU).train) == 8
        with pytest.raises(InputError, match="an image size is for folders and zip files"):
            datasets.find(asked, tmp_path, image_size=8)
    else:
        with pytest.raises(InputError, match=message) as error:
            datasets.load(datasets.find(asked, tmp_path), CPU)
        assert "\n" not in str(error.value)


def test_the_data_root_takes_precedence_but_over_embedded_data(tmp_path, ramp):
    for name in ("ramp", "mnist5k"):
        write_images(tmp_path / name, {"a": 2, "b": 2})
    assert isinstance(datasets.find("ramp", tmp_path).builder, image_folders.ImageFolder)
    assert datasets.find("ramp(count=8)", tmp_path).builder == Ramp(8)
    assert datasets.find("mnist5k", tmp_path).builder == registry.create("mnist5k")


@pytest.mark.parametrize("cls", list(registry))
def test_every_registered_data_set_says_what_it_is_and_gives_what_it_should(cls, tmp_path):
    builder = cls()
    assert cls.summary and cls.paper and registry.create(builder.label) == builder
    if cls.embedded:  # the others need files
        decoded = builder.decode(tmp_path)
        assert len(decoded.train_labels) and len(decoded.test_labels)
        assert set(decoded.train_labels) == set(decoded.test_labels) == set(range(len(decoded.classes)))
