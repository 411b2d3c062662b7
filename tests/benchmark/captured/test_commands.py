"""The commands on captured gradients, as their user meets them."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from captured_cases import command, net, rewrite, write, write_images
from docs_cases import block
from PIL import Image

from benchmark.cli import execute

NAMES = [f"{place}.png" for place in range(6)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Candidates, and the gradient of the fourth of them."""
    folder = tmp_path_factory.mktemp("audit") / "files"
    images = write_images(folder / "candidates", NAMES)
    write(folder, net(), [([images[3]], [2])], single=True)
    return folder


@pytest.fixture
def files(written, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(written, tmp_path / "files")
    return tmp_path / "files"


def test_the_first_twenty_are_shown_or_all(written, tmp_path, capsys):
    shutil.copytree(written, tmp_path / "files")
    write_images(tmp_path / "files" / "candidates", [f"more-{place}.png" for place in range(20)], seed=1)
    for more, rows, left in (([], 20, True), (["--all"], 26, False)):
        assert execute(command("identify", tmp_path / "files", *more)) == 0
        table = capsys.readouterr().out.split("\n\n")[1].splitlines()[2:]
        assert len(table) == rows + left and (table[-1] == "and 6 more") == left


def test_equal_candidates_share_a_rank_and_names_are_printed_safely(files, capsys):
    shutil.copy(files / "candidates" / "3.png", files / "candidates" / "9\x1b[31m.png")
    assert execute(command("identify", files, "--defense", "none")) == 0
    output = capsys.readouterr().out
    assert "victim 0, label 2: 3.png, as likely as 1 other\n" in output and "\x1b" not in output
    assert [row.split()[0] for row in output.splitlines()[4:8]] == ["1", "1", "3", "4"] and "'9\\x1b[31m.png'" in output


def test_a_batch_needs_public_images_and_a_single_image_says_that_it_does_not(files, capsys):
    write_images(files / "public", [f"{label}/{place}.png" for label in range(4) for place in range(5)], seed=2)
    assert execute(command("identify", files, "--public", str(files / "public"))) == 0
    assert "public images are not needed by this method" in capsys.readouterr().out


def test_a_defense_that_extends_the_model_extends_what_is_built(tmp_path, capsys):
    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[1]], [3])], single=True, defense="precode(bottleneck_size=3)")
    assert execute(command("identify", tmp_path, "--defense", "precode(bottleneck_size=3)")) == 0
    assert "victim 0, label 3: 1.png, ahead of" in capsys.readouterr().out
    assert execute(command("identify", tmp_path)) == 2
    assert "is not of this model: it lacks '3.weight', '3.bias'; it should not have '3.bottleneck" in capsys.readouterr().err


def test_a_defense_of_ones_own(files, capsys, clean_registry):
    (files / "mine.py").write_text(block("how-to/add-a-defense.md", "# my_defense.py"))
    arguments = command("identify", files, "--plugin", str(files / "mine.py"), "--defense", "my-defense(norm=1000)")
    assert execute(arguments) == 0
    assert "informed of my-defense(norm=1000)" in capsys.readouterr().out


def test_commands_need_torch_only_where_they_run():
    script = "import sys; import benchmark.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


def _refused(arguments, capsys):
    assert execute(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("leakboard: error: ") and captured.out == ""
    return line


def _pickled(path):
    torch.save({"x": torch.zeros(1)}, path)


def _pickled_of_old(path):
    torch.save({"x": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", ["observation", "weights"])
@pytest.mark.parametrize(("spoil", "message"), [
    (lambda path: path.write_bytes(b""), "is not a safetensors file"),
    (lambda path: path.write_bytes(b"nothing of the kind"), "is not a safetensors file"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is not a safetensors file"),
    (_pickled, "is a pickle, which can run code when it is read"),
    (_pickled_of_old, "safetensors.torch.save_file(torch.load("),
    (lambda path: path.unlink(), "No such file"),
    (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    (lambda path: rewrite(path, lambda tensors: (tensors.pop("0.bias"), tensors.update(extra=torch.zeros(1)))),
     "is not of this model: it lacks '0.bias'; it should not have 'extra'"),
    (lambda path: rewrite(path, lambda tensors: [tensors.pop(each) for each in list(tensors)] and tensors.update(x=torch.zeros(1))),
     "it lacks '0.weight', '0.bias', '3.weight' and 1 more; it should not have 'x'"),
    (lambda path: rewrite(path, lambda tensors: tensors.update({"3.bias": torch.zeros(5)})),
     "'3.bias' must be of shape [4], got [5]"),
    (lambda path: rewrite(path, lambda tensors: tensors["3.weight"][1, 2].fill_(torch.nan)), "'3.weight' has values that are not finite"),
    (lambda path: rewrite(path, lambda tensors: tensors["0.bias"][0].fill_(torch.inf)), "'0.bias' has values that are not finite"),
    (lambda path: rewrite(path, lambda tensors: tensors.update({"0.bias": torch.zeros(4).half()})), "'0.bias' is float16; convert it to float32"),
    (lambda path: rewrite(path, lambda tensors: tensors.update({"0.bias": torch.zeros(4).bfloat16()})), "is bfloat16; convert it to float32"),
    (lambda path: rewrite(path, lambda tensors: tensors.update({"0.bias": torch.zeros(4, dtype=torch.int8)})), "is int8; convert it"),
])
def test_files_that_are_not_what_they_should_be(name, spoil, message, files, capsys):
    spoil(files / f"{name}.safetensors")
    line = _refused(command("identify", files), capsys)
    assert message in line and name in line
    assert _refused(command("attack", files), capsys) == line and not (files / "rebuilt").exists()


@pytest.mark.parametrize(("metadata", "message"), [
    ({"format": None}, "'format' must be 'leakboard-observation/1'; it is missing"),
    ({"format": "leakboard-observation/2"}, "got 'leakboard-observation/2'"),
    ({"label": "[1]"}, "unknown key of the metadata 'label'; did you mean 'labels'?"),
    ({"batch_size": None}, "'batch_size' must be the number of images behind a gradient, 1 to 1,000,000; it is missing"),
    ({"batch_size": "0"}, "'batch_size' must be"), ({"batch_size": "true"}, "'batch_size' must be"), ({"batch_size": "1.0"}, "'batch_size' must be"),
    ({"batch_size": "one"}, "'batch_size' must be"), ({"batch_size": "1000000000"}, "got '1000000000'"),
    ({"batch_size": "2"}, "'labels' must be a list of 2 classes (whole numbers); got '[2]'"),
    ({"image_shape": None}, "'image_shape' must be three whole numbers [C, H, W]"), ({"image_shape": "[3, 8]"}, "'image_shape' must be"),
    ({"image_shape": "[3, 1000000, 1000000]"}, "'image_shape' must be"), ({"image_shape": "[" * 100_000}, "'image_shape' must be"),
    ({"image_shape": "[3, 9, 20]"}, "the model does not take images of 3x9x20 (image_shape): "),
    ({"mean": None}, "'mean' must be a number for each of 3 channels; it is missing"), ({"mean": "[0, 0]"}, "'mean' must be"),
    ({"mean": "[0, 0, NaN]"}, "'mean' must be"), ({"mean": "[0, 0, \"1\"]"}, "'mean' must be"),
    ({"std": None}, "'std' must be a number above 0 for each of 3 channels; it is missing"), ({"std": "[1, 1, 0]"}, "'std' must be"),
    ({"std": "[1, 1, Infinity]"}, "'std' must be"), ({"std": f"[1, 1, {'9' * 5000}]"}, "'std' must be"),
    ({"labels": "2"}, "'labels' must be a list of 1 classes"), ({"labels": "[[2]]"}, "'labels' must be"), ({"labels": "[-1]"}, "'labels' must be"),
    ({"labels": "[4]"}, "'labels' must be classes from 0 to 3, of which the model has scores; got '[4]'"),
    ({"victims": "0"}, "'victims' must be a whole number above 0"),
    ({"victims": "1000000000", "labels": None}, "'0.weight' must be of shape [1000000000, 4, 3, 3, 3], got [4, 3, 3, 3]"),
    ({"victims": "1000000000"}, "'labels' must be a list of 1000000000 lists of 1 classes"),
    ({"victims": str(2**63)}, "'victims' must be"),
    ({"rounds": "1000000000"}, "'rounds' must be as many as there are gradients: 4 tensors, of 4 parameters in each; got '1000000000'"),
    ({"rounds": "[]"}, "'rounds' must be a whole number above 0"),
    ({"local_steps": "0"}, "'local_steps' must be a whole number above 0; got '0'"),
    ({"local_steps": "2"}, "'local_step_size' must be a number above 0, as there are local steps; it is missing"),
    ({"local_steps": "2", "local_step_size": "0"}, "'local_step_size' must be a number above 0"),
    ({"local_steps": "2", "local_step_size": "0.1", "local_batch_size": "100"}, "'local_batch_size' must be a whole number from 1 to batch_size"),
])
def test_metadata_that_are_missing_or_malformed(metadata, message, files, capsys):
    rewrite(files / "observation.safetensors", **metadata)
    line = _refused(command("identify", files), capsys)
    assert message in line and len(line) < 500


@pytest.mark.parametrize(("source", "message"), [
    ("def f(:", "fails to import: SyntaxError"),
    ("import nothing_of_this_name", "fails to import: ModuleNotFoundError"),
    ("x = 1", "has no function 'build'"),
    ("def build(): raise OSError('no\\nfile')", "fails: OSError: no file"),
    ("def build(): raise SystemExit(0)", "fails: SystemExit: 0"),
    ("def build(width): return width", "fails: TypeError: build() missing 1 required positional argument"),
    ("def build(): return 3", "must return a torch.nn.Module, got int"),
    ("from torch import nn\ndef build(): return nn.Flatten()", "has no trainable parameters"),
    ("from torch import nn\ndef build(): return nn.Linear(2, 2)", "is not of this model"),
    ("{net}\nclass Net(nn.Sequential):\n    def forward(self, x): return super().forward(x), x\nplain = build\ndef build(): return Net(*plain())",
     "must return class scores of shape [batch, classes]"),
    ("{net}\nclass Net(nn.Sequential):\n    def forward(self, x): raise KeyError\nplain = build\ndef build(): return Net(*plain())",
     "the model does not take images of 3x8x8 (image_shape): KeyError"),
])
def test_models_that_cannot_be_built(source, message, files, capsys):
    (files / "net.py").write_text(source.replace("{net}", (files / "net.py").read_text()))
    assert message in _refused(command("identify", files), capsys)


@pytest.mark.parametrize(("model", "message"), [
    ("lenet", "a model is named as FILE.py:FUNCTION, got 'lenet'"), ("net.py", "FILE.py:FUNCTION"), ("net.py:a b", "FILE.py:FUNCTION"),
    ("absent.py:build", "cannot read the model file absent.py: No such file"),
])
def test_models_that_are_named_wrongly(model, message, files, capsys):
    arguments = command("attack", files)
    arguments[arguments.index("--model") + 1] = model
    assert message in _refused(arguments, capsys)


def _resized(folder, name="3.png", size=(9, 8), mode="RGB"):
    Image.new(mode, size).save(folder / name)


def _in_classes(folder, *names):
    for place, name in enumerate(names):
        (folder / name).mkdir()
        (folder / f"{place}.png").rename(folder / name / "image.png")
    for path in folder.glob("*.png"):
        path.unlink()


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda folder: shutil.rmtree(folder), "is not a folder"),
    (lambda folder: [path.unlink() for path in folder.iterdir()], "holds no images; expected IMAGE or CLASS/IMAGE"),
    (lambda folder: _resized(folder), "'3.png' is 9x8, the observation's images are 8x8; --image-size 8 resizes and crops all of them"),
    (lambda folder: (folder / "3.png").write_bytes(b"no image"), "has an image that cannot be decoded, '3.png'"),
    (lambda folder: (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60]), "has an image that cannot be decoded, '3.png'"),
    (lambda folder: _resized(folder, size=(10_000, 10_000), mode="1"), "could be decompression bomb"),
    (lambda folder: Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "3.png"), "more than 8 bits per channel"),
    (lambda folder: ((folder / "1").mkdir(), _resized(folder / "1")), "has images in class folders, and one outside of any: '0.png'"),
    (lambda folder: _in_classes(folder, "0", "4"), "has a class folder '4'; the model has classes from 0 to 3"),
    (lambda folder: _in_classes(folder, "cat", "dog", "horse"), "has 3 class folders for 4 classes of the model; name each by its number"),
])
def test_candidates_that_cannot_be_used(spoil, message, files, capsys):
    spoil(files / "candidates")
    assert message in _refused(command("identify", files), capsys)


def test_candidates_of_other_channels(tmp_path, capsys):
    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[0]], [2])], single=True)
    source = (tmp_path / "net.py").read_text().replace("Conv2d(3,", "Conv2d(1,")
    (tmp_path / "net.py").write_text(source)
    for name in ("observation", "weights"):
        rewrite(tmp_path / f"{name}.safetensors", lambda tensors: tensors.update({"0.weight": tensors["0.weight"][:, :1].contiguous()}))
    rewrite(tmp_path / "observation.safetensors", image_shape="[1, 8, 8]", mean="[0.5]", std="[1]")
    assert "'0.png' has 3 channels, the observation's images have 1" in _refused(command("identify", tmp_path), capsys)
    write_images(tmp_path / "candidates", NAMES, shape=(8, 8))
    assert execute(command("identify", tmp_path)) == 0


@pytest.mark.parametrize(("name", "more", "message"), [
    ("identify", ["--image-size", "16"], "an image size of 16 is not that of the observation, whose images are 8x8"),
    ("identify", ["--image-size", "0"], "--image-size"),
    ("identify", ["--defense", "nose"], "did you mean 'noise'"),
    ("identify", ["--defense", "dp-sgd(target_epsilon=8)"], "follows from the plan of a training, which is not known here; give what came of it "
     "instead, such as noise_multiplier"),
    ("attack", ["--defense", "noise+dp-sgd(target_epsilon=8)"], "such as noise_multiplier"),
    ("identify", ["--public", "absent"], "public absent is not a folder"),
    ("identify", ["--plugin", "absent.py"], "cannot read the plugin absent.py"),
    ("identify", ["--device", "abacus"], "unknown device 'abacus'"),
    ("attack", ["--attack", "inverting"], "did you mean 'inverting-gradients'"),
    ("attack", ["--attack", "portfolio(budget='none')"], "budget must be one of"),
    ("attack", ["--attack", "likelihood"], "likelihood(iterations=3000) does not apply: a blind attacker does not know of noise"),
    ("attack", ["--seed", "-1"], "--seed"),
])
def test_options_that_cannot_be_used(name, more, message, files, capsys):
    assert message in _refused(command(name, files, *more), capsys)
    assert not (files / "rebuilt").exists()


def test_a_batch_without_public_images(tmp_path, capsys):
    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [(images[:2], [0, 1])], single=True)
    message = "a gradient of 2 images needs --public, a folder of other images of the kind, CLASS/IMAGE"
    assert message in _refused(command("identify", tmp_path), capsys)
    assert message in _refused(command("identify", tmp_path, "--public", str(tmp_path / "candidates")), capsys)
    write_images(tmp_path / "public", ["0/0.png", "0/1.png"])
    assert "fewer than two public images are not among" in _refused(command("identify", tmp_path, "--public", str(tmp_path / "public")), capsys)


def test_labels_that_cannot_be_inferred(tmp_path, capsys):
    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[0]], [2])], single=True, labels=None)
    source = "from torch import nn\ndef build(): return nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())"
    (tmp_path / "net.py").write_text(source)
    weights = {"0.weight": torch.randn(4, 3, 8, 8), "0.bias": torch.zeros(4)}
    for name in ("weights", "observation"):
        rewrite(tmp_path / f"{name}.safetensors", lambda tensors: (tensors.clear(), tensors.update(weights)))
    line = _refused(command("identify", tmp_path), capsys)
    assert "labels cannot be inferred" in line and "put the candidates into folders, CLASS/IMAGE" in line
    assert "labels cannot be inferred" in _refused(command("attack", tmp_path), capsys)
    line = _refused(command("identify", tmp_path, "--defense", "precode"), capsys)
    assert "must end in a linear layer" in line


def test_images_that_cannot_be_written(files, tmp_path, capsys):
    (files / "rebuilt").write_text("a file")
    assert "cannot write to" in _refused(command("attack", files, "--attack", "inverting-gradients(iterations=1)"), capsys)


def test_more_than_memory_holds(files, capsys, monkeypatch):
    from benchmark.captured import limits

    monkeypatch.setattr(limits, "allowed", lambda device: 4 * 6 * 3 * 8 * 8 - 1 + (files / "weights.safetensors").stat().st_size)
    rewrite(files / "observation.safetensors", batch_size="1000000", labels=None)
    assert "the images behind the gradients take 0.7 GiB" in _refused(command("attack", files), capsys)
    monkeypatch.setattr(limits, "allowed", lambda device: 100)
    assert "GiB that they may take here" in _refused(command("identify", files), capsys)


def test_a_model_that_fails_under_the_attack(files, capsys):
    source = (files / "net.py").read_text() + """
class Net(nn.Sequential):
    def forward(self, x):
        if len(x) > 1 or x.requires_grad:
            raise RuntimeError("one\\nat a time")
        return super().forward(x)

plain = build

def build():
    return Net(*plain())
"""
    (files / "net.py").write_text(source)
    assert "RuntimeError: one at a time" in _refused(command("identify", files), capsys)


def test_weights_under_which_nothing_is_finite(files, capsys):
    rewrite(files / "weights.safetensors", lambda tensors: [t.fill_(3e38) for t in tensors.values()])
    assert "no candidate has a finite score" in _refused(command("identify", files), capsys)
