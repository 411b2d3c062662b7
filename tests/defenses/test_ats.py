"""Transformed images: each operation against PIL, what is drawn, and what of it can be undone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attack_cases import observation_of
from model_cases import NORMALISATION, batch, loader
from PIL import Image, ImageEnhance, ImageOps

import defenses
from defenses import ATS, Choice, Facts
from defenses.ats import _LIST
from defenses.choices import chained, changed_at_random, changed_by

FACTS = Facts(1, 0, torch.nn.Identity(), (3, 8, 8))
#: 8-bit pixels as the images of these tests, so that mean and std have nothing to do.
PIXELS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def photographs(count: int = 2, size: int = 32) -> np.ndarray:
    """Smooth random uint8 images [N, H, W, 3] with some contrast."""
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic").clamp(0.05, 0.95)
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def tensors(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255


def changed(number: int, images: np.ndarray) -> list[np.ndarray]:
    """By each of the signs of one transformation, on the scale of 0 to 255."""
    return [(choice.changed(tensors(images)) * 255).permute(0, 2, 3, 1).numpy()
            for choice in ATS(policy=str(number), **PIXELS).choices(FACTS)]


def affine(image: Image.Image, matrix: tuple[float, ...], resample: int) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=(0, 0, 0))


def rotated(image: Image.Image, degrees: float) -> Image.Image:
    whole = image.convert("RGBA").rotate(degrees)
    return Image.composite(whole, Image.new("RGBA", whole.size, (128,) * 4), whole).convert("RGB")


#: What the operations are in PIL, by the amount; written from the description of AutoAugment (Cubuk et al., 2019, table 6).
REFERENCE = {
    "translate-x": lambda image, share: affine(image, (1, 0, share * image.size[0], 0, 1, 0), Image.Resampling.NEAREST),
    "translate-y": lambda image, share: affine(image, (1, 0, 0, 0, 1, share * image.size[1]), Image.Resampling.NEAREST),
    "shear-y": lambda image, slope: affine(image, (1, 0, 0, slope, 1, 0), Image.Resampling.BICUBIC),
    "rotate": rotated,
    "color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "solarize": lambda image, threshold: ImageOps.solarize(image, threshold),
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
}
#: The amounts of levels 0 to 9.
AMOUNTS = {
    "translate-x": np.linspace(0, 150 / 331, 10), "translate-y": np.linspace(0, 150 / 331, 10), "shear-y": np.linspace(0, 0.3, 10),
    "rotate": np.linspace(0, 30, 10), "posterize": np.round(np.linspace(8, 4, 10)), "solarize": np.linspace(256, 0, 10),
    **dict.fromkeys(("color", "contrast", "sharpness", "brightness"), np.linspace(0, 0.5, 10)),
    **dict.fromkeys(("autocontrast", "equalize", "invert"), np.zeros(10)),
}
SIGNED = {"translate-x": 0, "translate-y": 0, "shear-y": 0, "color": 1, "contrast": 1, "sharpness": 1, "brightness": 1}


@pytest.mark.parametrize("number", sorted({_LIST.index(entry) for entry in _LIST}))
def test_a_transformation_is_that_of_pil(number):
    """Within two of 255, since pixels are not rounded in between; where places are rounded otherwise, for all but a few pixels."""
    name, level = _LIST[number]
    amount = AMOUNTS[name][level]
    amounts = [SIGNED[name] - amount, SIGNED[name] + amount] if name in SIGNED else [amount]
    images = photographs()
    found = changed(number, images)
    assert len(found) == len(set(amounts))
    for one, sign in zip(found, dict.fromkeys(amounts), strict=True):
        expected = np.stack([np.asarray(REFERENCE[name](Image.fromarray(image), float(sign))) for image in images]).astype(float)
        wrong = (np.abs(one - expected) > 2).mean()
        assert wrong <= (0.02 if name == "rotate" else 0), (name, sign, wrong)
        assert name == "color" or np.abs(one - images).mean() > 1 or level == 0 or name in ("sharpness", "autocontrast", "posterize", "solarize")


def test_the_default_policy_by_hand():
    """Of the second sub-policy, all is known: five rows up or down, contrast by 1 -+ 7/18 twice."""
    choices = ATS(**PIXELS).choices(FACTS)
    assert [choice.probability for choice in choices] == [1 / 16] * 16
    x = tensors(photographs(1))
    grey = torch.tensor([0.2989, 0.587, 0.114], dtype=x.dtype).view(3, 1, 1)
    for choice, (up, first, second) in zip(choices[8:], [(u, a, b) for u in (-1, 1) for a in (-1, 1) for b in (-1, 1)], strict=True):
        expected = torch.zeros_like(x)
        if up > 0:
            expected[..., :-5, :] = x[..., 5:, :]
        else:
            expected[..., 5:, :] = x[..., :-5, :]
        for sign in (first, second):
            factor, mean = 1 + sign * 7 / 18, (expected * grey).sum(1).mean()
            expected = (factor * expected + (1 - factor) * mean).clamp(0, 1)
        torch.testing.assert_close(choice.changed(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("policy", ["", "50", "3--1", "3-1+", "-1", "a", 3])
def test_what_is_no_policy_is_refused(policy):
    with pytest.raises(ValueError, match="policy must be numbers from 0 to 49"):
        ATS(policy=policy)


def test_without_a_normalisation_nothing_is_trained():
    module = torch.nn.Flatten(), torch.nn.Linear(128, 5)
    module = torch.nn.Sequential(*module)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch()), batch_size=3)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="ats needs the normalisation of the images"):
        ATS().make_private(module=module, optimizer=optimizer, data_loader=data)
    with pytest.raises(ValueError, match="mean and std"):
        ATS(mean=(0.5,))
    known = ATS(mean=(0.0, 0.0), std=(1.0, 1.0))
    assert known.make_private(module=module, optimizer=optimizer, data_loader=data).in_force == known
    told = ATS().make_private(module=module, optimizer=optimizer, data_loader=loader())
    assert (told.in_force.mean, told.in_force.std) == NORMALISATION and told.defense == ATS()


def test_the_normalisation_makes_no_difference_to_the_pixels():
    x = tensors(photographs())
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    m, s = (torch.tensor(values, dtype=x.dtype).view(3, 1, 1) for values in (mean, std))
    for plain, normalised in zip(ATS(**PIXELS).choices(FACTS), ATS(mean=mean, std=std).choices(FACTS), strict=True):
        torch.testing.assert_close(normalised.changed((x - m) / s) * s + m, plain.changed(x), rtol=0, atol=1e-6)


def test_other_numbers_of_channels_are_taken_as_grey_ones():
    x = torch.rand(2, 5, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    several, one = (ATS(policy="1-4-9", mean=(0.0,) * c, std=(1.0,) * c).choices(FACTS) for c in (5, 1))
    for whole, single in zip(several, one, strict=True):
        torch.testing.assert_close(whole.changed(x), torch.cat([single.changed(x[:, c : c + 1]) for c in range(5)], 1))


def test_each_image_is_changed_by_one_of_the_choices_as_often_as_is_said():
    images = tensors(photographs(1, 8)).expand(4000, -1, -1, -1)
    choices = (Choice(0.1), *(Choice(0.9 * c.probability, c.changes) for c in ATS(policy="3+1", **PIXELS).choices(FACTS)))
    drawn = changed_at_random(choices, images, torch.Generator().manual_seed(0))
    outcomes = torch.stack([choice.changed(images[:1])[0] for choice in choices])
    which = (drawn[:, None] - outcomes).abs().amax((-3, -2, -1)).min(1)
    assert (which.values == 0).all()
    for place, choice in enumerate(choices):
        p = choice.probability
        assert abs((which.indices == place).double().mean() - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_on_another_device_the_same_is_drawn(monkeypatch):
    """Where all images go through all choices."""
    images, choices = tensors(photographs(12)), ATS(**PIXELS).choices(FACTS)
    places = torch.arange(12)
    expected = torch.stack([choices[i].changed(images[i : i + 1])[0] for i in range(12)])
    torch.testing.assert_close(changed_by(choices, images, places), expected, rtol=0, atol=1e-12)
    alone = changed_at_random(choices, images, torch.Generator().manual_seed(3))

    class Elsewhere(torch.Tensor):
        """Says that it is not on the CPU."""

        @property
        def device(self):
            return torch.device("meta")

    real = torch.rand
    monkeypatch.setattr("defenses.choices.torch.rand", lambda count, generator, device: real(count, generator=generator))
    monkeypatch.setattr("defenses.choices.upload", lambda values, device, dtype: torch.tensor(values, dtype=dtype))
    monkeypatch.setattr("defenses.ats.upload", lambda values, device, dtype: torch.tensor(values, dtype=dtype))
    together = changed_at_random(choices, images.as_subclass(Elsewhere), torch.Generator().manual_seed(3))
    torch.testing.assert_close(together.as_subclass(torch.Tensor), alone, rtol=0, atol=1e-12)


def test_nothing_is_written_into_and_an_empty_batch_stays_empty():
    x = tensors(photographs())
    before = x.clone()
    for number in range(50):
        for choice in ATS(policy=str(number), **PIXELS).choices(FACTS):
            choice.changed(x)
            choice.undone(x)
    assert torch.equal(x, before)
    assert changed_at_random(ATS(**PIXELS).choices(FACTS), x[:0], torch.Generator()).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(("number", "most"), [(0, 1e-9), (3, 1e-9), (7, 1e-9), (1, 1e-3), (22, None), (12, 1e-3), (38, 1e-6), (14, 0.01),
                                              (6, 0.03), (2, 0.2)])
def test_what_was_changed_can_be_undone(number, most):
    """Of images without pixels near black or white, where what is left of them was; not of equalisation."""
    x = 0.35 + 0.3 * tensors(photographs(1))
    middle = (..., slice(16, 17), slice(16, 17)) if number == 3 else (..., slice(8, 24), slice(8, 24))
    for choice in ATS(policy=str(number), **PIXELS).choices(FACTS):
        back = choice.undone(choice.changed(x))
        assert back.shape == x.shape
        assert ((back - x)[middle].abs().max() <= most) if most is not None else ((back - x).abs().max() > 0.1)


def test_compositions_chain_the_choices():
    first = (Choice(0.25), Choice(0.75))
    second = ATS(policy="0", **PIXELS).choices(FACTS)
    assert chained(first, ()) == first and chained((), second) == second
    both = chained(first, second)
    assert [choice.probability for choice in both] == [0.25, 0.75]
    x = tensors(photographs(1))
    torch.testing.assert_close(both[0].then(second[0]).changed(x), x)
    composed = defenses.create("ats(policy='0', mean=(0.0,), std=(1.0,))+noise")
    assert len(composed.choices(FACTS)) == 1 and defenses.create("noise+pruning").choices(FACTS) == ()


def test_what_is_shared_is_the_gradient_of_one_of_the_outcomes():
    observation, x = observation_of("ats", "lenet", victims=8)
    parameters = list(observation.module.parameters())
    seen = set()
    for victim in range(8):
        fits = []
        for place, choice in enumerate(observation.choices):
            loss = torch.nn.functional.cross_entropy(observation.module(choice.changed(x[victim])), observation.labels[victim])
            own = torch.autograd.grad(loss, parameters)
            if all(torch.allclose(a, g[victim], rtol=1e-4, atol=1e-6) for a, g in zip(own, observation.shared.values(), strict=True)):
                fits.append(place)
        assert fits
        seen.add(fits[0])
    assert len(seen) > 2
    assert all(not release.stages for release in observation.releases().values()) and observation.blind().choices == ()
