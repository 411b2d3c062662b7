"""Candidates for a gradient of several images: against the law by hand, and on digits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from identification_cases import Case, case_of, gradient_of
from stage_cases import Rounding, Scaling
from torch.distributions import MultivariateNormal

import defenses
from attacks import Observation
from attacks.engine import memory
from attacks.engine.per_image import PerImage
from attacks.identification import Candidates, Identifier, batches, mixtures
from attacks.identification.features import fresh_noise
from attacks.identification.identifier import Method
from benchmark import models
from benchmark.data import datasets
from defenses import Composition, Defense, Kept, Release
from defenses.stochastic import sampling, stochastic_layers
from defenses.support.seeds import derive

NOISE, PRUNING, DP_SGD = defenses.NoisyGradients(std=0.03), defenses.GradientPruning(p=0.6), defenses.DPSGD(noise_multiplier=0.1, max_grad_norm=0.2)


def expected(case: Case, *, variance: float = 0.0, factor: float = 1.0, clip: float = float("inf"), hidden: bool = False,
             of_classes: bool = True, fresh: bool = False, cut: bool = False) -> torch.Tensor:
    """Minus the log-likelihoods [N, M] with explicit gradients and covariances.

    Args:
        case: what was observed.
        variance: of the noise on each entry of the clean gradient.
        factor: by which it was multiplied.
        clip: the norm to which that of each image was.
        hidden: whether entries that are zero were hidden.
        of_classes: whether the public images are grouped by their classes.
        fresh: whether candidates have codes that are sampled, the same noise for all; else the means of their codes.
        cut: whether directions of weights were cut off.
    """
    observation, candidates = case.observation, case.candidates
    layers = list(stochastic_layers(observation.module).values())
    draws = [torch.randn(len(candidates.public_images), layer.size, generator=torch.Generator().manual_seed(derive("public", i)))
             for i, layer in enumerate(layers)]

    def gradients(images, labels, noise):
        found = []
        for place, (image, label) in enumerate(zip(images, labels, strict=True)):
            with sampling(layers, [draw[place : place + 1].to(image) for draw in noise]):
                own = gradient_of(observation, image, label)
            length = sum(g.square().sum() for g in own.values()).sqrt()
            found.append([g.flatten() * min(1, clip / length) for g in own.values()])
        return [torch.stack(of) for of in zip(*found, strict=True)]  # [images, n] of each parameter

    public = gradients(candidates.public_images, candidates.public_labels, draws)
    noise = fresh_noise(observation, derive(0, "identification", 0)) if fresh else [torch.zeros(1, layer.size) for layer in layers]
    own = gradients(candidates.images, candidates.labels, [draw.expand(len(candidates.images), -1) for draw in noise])
    size = observation.batch_size
    ridges = [1e-2 * of.var(0, correction=0).mean() * (size - 1) / size**2 for of in public]
    base = torch.cat([(variance + ridge).expand(of.shape[1]) for ridge, of in zip(ridges, public, strict=True)])
    public, own = torch.cat(public, 1), torch.cat(own, 1)
    scores = torch.zeros(candidates.pools.shape, dtype=torch.float64)
    groups = candidates.public_labels if observation.labels is not None and of_classes else torch.zeros(len(public), dtype=torch.long)
    means = torch.stack([public[groups == group].mean(0) if (groups == group).any() else torch.zeros_like(base) for group in range(5)])
    centred = public - means[groups]
    spread = (size - 1) / size**2 * centred.T @ centred / (len(public) - len(groups.unique()))
    for victim, pool in enumerate(candidates.pools):
        shared = torch.cat([g[victim].flatten().double() for g in observation.shared.values()]) / factor
        seen = shared != 0 if hidden else torch.ones_like(shared, dtype=torch.bool)
        by_class = observation.labels is not None and of_classes
        behind = means[observation.labels[victim] if by_class else torch.zeros(size, dtype=torch.long)].mean(0)
        expected = behind + (own[pool] - means[candidates.labels[pool] if by_class else torch.zeros_like(pool)]) / size
        part = torch.eye(len(base), dtype=torch.float64)[seen]
        if cut:
            part = torch.block_diag(*(directions(g[victim]) for g in observation.shared.values()))
        law = MultivariateNormal(expected @ part.mT, part @ (spread + base.diag()) @ part.mT)
        scores[victim] = -law.log_prob(part @ shared)
    return scores


def directions(shared: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis [q, n] of the matrices with rows or columns in the span of those that were kept of a parameter."""
    if shared.dim() == 1:
        return torch.eye(len(shared), dtype=torch.float64)
    matrix = shared.flatten(1).double()
    u, s, vh = torch.linalg.svd(matrix, full_matrices=True)
    rank = int((s > 1e-9 * s[0]).sum())
    pairs = [torch.outer(u[:, i], vh[j]).flatten() for i in range(len(u)) for j in range(len(vh)) if i < rank or j < rank]
    return torch.stack(pairs)


def check(case: Case, **arguments) -> None:
    assert Identifier().method(case.observation) == Method("whitened", False)
    found, law = Identifier().scores(case.observation, case.candidates, seed=0), expected(case, **arguments)
    assert law.std(1).min() > 0.01
    torch.testing.assert_close(found - found[:, :1], law - law[:, :1], rtol=1e-6, atol=1e-6)


CHAINS = {
    "none": (defenses.NoDefense(), {}), "noise": (NOISE, {"variance": 0.03**2}), "pruning": (PRUNING, {"hidden": True}),
    "scaled": (Scaling(-2.0), {"factor": -2.0}),
    "scaled and noise": (Composition((Scaling(-2.0), NOISE)), {"factor": -2.0, "variance": (0.03 / 2) ** 2}),
    "noise and scaled": (Composition((NOISE, Scaling(-2.0))), {"factor": -2.0, "variance": 0.03**2}),
    "noise and pruning": (Composition((NOISE, PRUNING)), {"variance": 0.03**2, "hidden": True}),
    "rounded": (Rounding(width=0.02), {"variance": (0.02 * (1 + 2e-6)) ** 2 / 12}),
    "dp-sgd": (DP_SGD, {"clip": 0.2, "variance": (0.1 * 0.2 / 3) ** 2}),
    "dp-sgd without noise": (replace(DP_SGD, noise_multiplier=0.0), {"clip": 0.2}),
    "dp-sgd and pruning": (Composition((DP_SGD, PRUNING)), {"clip": 0.2, "variance": (0.1 * 0.2 / 3) ** 2, "hidden": True}),
    "sum": (defenses.SecureSum(2), {}),
    "noise in a sum": (Composition((NOISE, defenses.SecureSum(2))), {"variance": (0.03 / 2) ** 2}),
    "dp-sgd in a sum": (Composition((DP_SGD, defenses.SecureSum(2))), {"clip": 0.2, "variance": (0.1 * 0.2 / 6) ** 2}),
    "precode": (defenses.PRECODE(bottleneck_size=3), {}),
    "svd": (defenses.TruncatedSVD(energy=0.6), {"cut": True}),
    "svd and scaled": (Composition((defenses.TruncatedSVD(energy=0.6), Scaling(-2.0))), {"cut": True, "factor": -2.0}),
}


@pytest.mark.parametrize("labels_known", [True, False], ids=["labels known", "labels inferred"])
@pytest.mark.parametrize("few", [False, True], ids=["by public images", "by entries"])
@pytest.mark.parametrize("name", CHAINS)
def test_scores_are_those_of_the_law_by_hand(name, few, labels_known, monkeypatch):
    """Whose candidates, and public images, are clipped one by one where those of the client were."""
    monkeypatch.setattr(batches, "_FEW", 0 if few else 10**6)
    defense, arguments = CHAINS[name]
    check(case_of(defense, victims=2, size=4, batch_size=3, labels_known=labels_known, dtype=torch.float64), **arguments)


def test_beside_concealing_images_the_clients_are_half_of_the_mean(monkeypatch):
    monkeypatch.setattr(mixtures, "_MOST_REBUILT", 5)
    check(case_of("dcs2", victims=2, size=4, batch_size=3, dtype=torch.float64), factor=0.5)
    check(case_of("dcs2+noise(std=0.03)", victims=2, size=4, batch_size=3, dtype=torch.float64), factor=0.5, variance=(2 * 0.03) ** 2)


@pytest.mark.parametrize("clients", [1, 2])
def test_a_length_that_is_lost_in_the_noise_is_the_one_that_public_images_have(clients):
    """Gradients of three images each were clipped as wholes: by how much follows from the length that such a mean is expected to have."""
    defense = defenses.DPFedAvg(noise_multiplier=3, max_norm=0.1)
    if clients > 1:
        defense = Composition((defense, defenses.SecureSum(clients)))
    case = case_of(defense, victims=2, size=4, batch_size=3, dtype=torch.float64)
    public = torch.stack([torch.cat([g.flatten() for g in gradient_of(case.observation, image, label).values()])
                          for image, label in zip(case.candidates.public_images, case.candidates.public_labels, strict=True)])
    middle = public.mean(0).square().sum()
    factor = 0.1 / float(middle + (public.square().sum(1).mean() - middle) / 3) ** 0.5
    assert factor < 1
    check(case, factor=factor, variance=(0.3 / clients / factor) ** 2)


def test_a_blind_attacker_has_codes_that_the_model_samples():
    """It does not know which layers sample, so that it cannot ask for the mean of a code."""
    case = case_of(CHAINS["precode"][0], victims=2, size=4, batch_size=3, dtype=torch.float64)
    check(replace(case, observation=case.observation.blind()), fresh=True)


def test_large_layers_that_are_not_formed():
    check(case_of(NOISE, "mlp", victims=2, size=3, batch_size=2, public=12, labels_known=False, dtype=torch.float64), variance=0.03**2)


def test_a_class_without_public_images_leaves_one_group_of_all():
    """Of victims' other images as of candidates; of one image there is a mean, and a class that nobody has does not matter."""
    case = case_of(NOISE, victims=2, size=4, batch_size=3, dtype=torch.float64)
    present, absent = int(case.observation.labels[0, 1]), next(label for label in range(5) if label not in case.observation.labels)

    def with_labels(change) -> Case:
        labels = case.candidates.public_labels.clone()
        change(labels)
        return replace(case, candidates=replace(case.candidates, public_labels=labels))

    for left in (0, 1):
        def few(labels, left=left):
            labels[(labels == present).nonzero().flatten()[left:]] = (present + 1) % 5

        check(with_labels(few), variance=0.03**2, of_classes=bool(left))
    check(with_labels(lambda labels: labels.masked_fill_(labels == absent, present)), variance=0.03**2)
    check(with_labels(lambda labels: labels.clamp_max_(int(case.observation.labels.max()) - 1)), variance=0.03**2, of_classes=False)
    labels = case.candidates.labels.clone()
    labels[-1] = absent
    other = with_labels(lambda labels: labels.masked_fill_(labels == absent, present))
    check(replace(other, candidates=replace(other.candidates, labels=labels)), variance=0.03**2, of_classes=False)


def test_candidates_of_several_classes():
    """Which are compared with the mean of their own."""
    case = case_of(NOISE, victims=2, size=4, batch_size=3, dtype=torch.float64)
    mixed = torch.randint(5, (len(case.candidates.labels),), generator=torch.Generator().manual_seed(0))
    check(replace(case, candidates=replace(case.candidates, labels=mixed)), variance=0.03**2)


@pytest.mark.parametrize("count", [2, 3, 13])
@pytest.mark.parametrize("defense", ["none", "pruning", "dp-sgd(noise_multiplier=0.0)", "rounded", "clipping(norm=0.1)", "precode"])
def test_few_public_images_are_enough_to_compute(defense, count):
    case = case_of(defense, "batch-norm", batch_size=4, public=count)
    assert Identifier().scores(case.observation, case.candidates, seed=0).isfinite().all()


def test_public_images_that_are_all_alike_are_no_obstacle():
    case = case_of("none", batch_size=4, public=5)
    same = replace(case.candidates, public_images=case.candidates.public_images[:1].expand(5, -1, -1, -1).contiguous(),
                   public_labels=torch.zeros(5, dtype=torch.long))
    assert Identifier().scores(case.observation, same, seed=0).isfinite().all()


@pytest.mark.parametrize("defense", ["none", "noise", "dp-sgd"])
def test_without_public_images_nothing_is_known_of_the_others(defense):
    case = case_of(defense, batch_size=3, public=0)
    one = replace(case.candidates, public_images=case.candidates.images[:1], public_labels=torch.zeros(1).long())
    for candidates in (case.candidates, one):
        with pytest.raises(ValueError, match="need public images, which tell of the others") as error:
            Identifier().scores(case.observation, candidates, seed=0)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("defense", "factors"), [
    (defenses.GradientClipping(norm=1e-2), [1e-3] * 4), (defenses.GradientClipping(norm=1e-2, per="tensor"), [1e-3, 2.0, 0.1, 30.0]),
    (defenses.GradientSigns(), [1e-3, 2.0, 0.1, 30.0])], ids=str)
def test_a_scale_that_was_lost_does_not_matter(defense, factors):
    """The norm of the mean of several images is not known, as a whole or of each parameter; what is far shorter tells as much."""
    case = case_of(defense, victims=2, batch_size=3, dtype=torch.float64)
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    shared = {name: factor * g for factor, (name, g) in zip(factors, case.observation.shared.items(), strict=True)}
    other = Identifier().scores(replace(case.observation, shared=shared, rounds=(), kept={}), case.candidates, seed=0)
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6)


def test_as_many_public_images_as_the_memory_holds(monkeypatch):
    case = case_of(NOISE, victims=2, size=4, batch_size=3, labels_known=False, dtype=torch.float64)
    fewer = replace(case.candidates, public_images=case.candidates.public_images[:10], public_labels=case.candidates.public_labels[:10])
    expected = Identifier().scores(case.observation, fewer, seed=0)
    each = PerImage(case.observation).bytes_per_image()
    monkeypatch.setattr(memory, "budget", lambda device: 10 * each)
    torch.testing.assert_close(Identifier().scores(case.observation, case.candidates, seed=0), expected)


@settings(max_examples=12)
@given(at_once=st.integers(1, 30), hidden=st.booleans())
def test_how_many_images_are_worked_on_at_once_changes_nothing(at_once, hidden):
    case = case_of(PRUNING if hidden else "precode", victims=2, size=4, batch_size=3, dtype=torch.float64)
    expected = Identifier().scores(case.observation, case.candidates, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "at_once", lambda bytes_each, device: at_once)
        torch.testing.assert_close(Identifier().scores(case.observation, case.candidates, seed=0), expected)


def test_of_many_kept_entries_some_are_compared(monkeypatch):
    case = case_of(defenses.GradientPruning(p=0.1), "mlp", victims=3, size=4, batch_size=3, dtype=torch.float64)
    whole = Identifier().scores(case.observation, case.candidates, seed=0)
    monkeypatch.setattr(batches, "_MOST_ENTRIES", 10**6)
    torch.testing.assert_close(Identifier().scores(case.observation, case.candidates, seed=0), whole)
    monkeypatch.setattr(batches, "_MOST_ENTRIES", 300)
    fewer = Identifier().scores(case.observation, case.candidates, seed=0)
    assert not torch.allclose(fewer, whole) and not case.ranks(fewer).any()


def test_masks_of_several_stages_are_joined():
    class Twice(defenses.GradientPruning):
        def release(self, shared, facts):
            told = super().release(shared, facts)
            even = {name: torch.arange(g[0].numel()).view(g[0].shape).remainder(2).eq(0).expand_as(g) for name, g in shared.items()}
            return {name: release.then(Release((Kept(1, even[name]),))) for name, release in told.items()}

    case = case_of(NOISE, victims=2, size=4, batch_size=3, dtype=torch.float64)
    observation = replace(case.observation, defense=Twice(p=0.5))
    scores = Identifier().scores(observation, case.candidates, seed=0)
    even = {name: g * torch.arange(g[0].numel()).view(g[0].shape).remainder(2).eq(0) for name, g in observation.shared.items()}
    by_hand = expected(replace(case, observation=replace(observation, shared=even, rounds=(), kept={})), hidden=True)
    torch.testing.assert_close(scores - scores[:, :1], by_hand - by_hand[:, :1], rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load(datasets.find("mnist5k"), torch.device("cpu"))


def of_digits(digits: datasets.Dataset, defense: Defense, batch_size: int, victims: int = 24, size: int = 10, public: int = 400) -> Case:
    """Gradients of an untrained LeNet; candidates of the victim's class."""
    images, labels = digits.train.batch(torch.arange(len(digits.train)))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    behind, left = order[: victims * batch_size].view(victims, batch_size), order[victims * batch_size :]
    known, left = left[:public], left[public:]
    pools, true = [], torch.arange(victims) % size
    for own, place in zip(behind, true, strict=True):
        others = left[labels[left] == labels[own[0]]][: size - 1]
        pools.append(torch.cat([others[:place], own[:1], others[place:]]))
    torch.manual_seed(0)
    module = models.build("lenet", (1, 28, 28), 10)
    private = defense.make_private(module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images[:64], labels[:64]), batch_size=32), epochs=1)
    drawn = [private.shared_gradient(images[own], labels[own], seed=place) for place, own in enumerate(behind)]
    observation = Observation(
        module=private.module.eval(), shared={name: torch.stack([g[name] for g in drawn]) for name in drawn[0]}, batch_size=batch_size,
        image_shape=(1, 28, 28), mean=digits.train.mean, std=digits.train.std, labels=labels[behind], defense=private.in_force)
    used, pools = torch.stack(pools).unique(return_inverse=True)
    return Case(observation, Candidates(images[used], labels[used], pools, images[known], labels[known]), true)


@pytest.mark.parametrize(("specification", "least"), [
    ("none", 0.9), ("noise(std=0.001)", 0.7), ("pruning(p=0.9)", 0.9), ("dp-sgd(noise_multiplier=0.001)", 0.6), ("clipping(norm=0.01)", 0.9),
    ("noise(std=0.001)+pruning(p=0.9)", 0.7), ("clipping(norm=0.01, per=tensor)", 0.9), ("sign", 0.7), ("svd(energy=0.5)", 0.7),
    ("quantisation(levels=1)", 0.7)])
def test_digits_behind_gradients_of_four(digits, specification, least):
    """Chance is 0.1."""
    case = of_digits(digits, defenses.create(specification), 4)
    assert (case.ranks(Identifier().scores(case.observation, case.candidates, seed=0)) == 0).double().mean() >= least
