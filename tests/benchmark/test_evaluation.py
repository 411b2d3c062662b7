from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

import attacks
import defenses
from attacks import Attack, Reconstruction
from benchmark import datasets, metrics
from benchmark.config import Evaluation, Training
from benchmark.evaluation import attack_rows, choose_victims, observe
from benchmark.training import make_private

CPU = torch.device("cpu")


def observed(shapes, specification: str = "none", model: str = "lenet", **evaluation):
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    settings = Evaluation(**{"victims": 3, **evaluation})
    private = make_private(defenses.create(specification), dataset, model, Training(), 0)
    victims = choose_victims(dataset, settings, 0)
    return private, victims, observe(private, victims, dataset, settings, seed=5), dataset


def test_victims_are_training_images_the_same_for_every_defense_and_model(shapes):
    _, plain, _, dataset = observed(shapes)
    _, other, _, _ = observed(shapes, "precode", "mlp")
    assert np.array_equal(plain.pixels, other.pixels)
    everything = dataset.train.pixels(torch.arange(len(dataset.train)))
    assert all((torch.from_numpy(p[0]) == everything).flatten(1).all(1).any() for p in plain.pixels)
    assert not np.array_equal(choose_victims(dataset, Evaluation(victims=3), 1).pixels, plain.pixels)


@pytest.mark.parametrize("specification", ["none", "noise", "precode", "dp-sgd"])
def test_observed_is_what_the_client_shares(shapes, specification):
    private, victims, observation, _ = observed(shapes, specification, batch_size=2)
    from attacks.seeds import derive
    for victim in range(3):
        shared = private.shared_gradient(victims.images[victim], victims.labels[victim], seed=derive(5, victim, "client"))
        assert all(torch.equal(g, observation.gradients[name][victim]) for name, g in shared.items())


def test_batch_norm_models_are_observed_with_running_statistics(shapes):
    """A batch of one image has no batch statistics: training mode would raise at one pixel, and the buffers stay."""
    private, _, observation, _ = observed(shapes, model="torchvision:resnet18")
    assert all(torch.isfinite(g).all() for g in observation.gradients.values())
    assert all(int(m.num_batches_tracked) == 0 and m.training for m in private.module.modules()
               if isinstance(m, torch.nn.BatchNorm2d))


def test_layers_that_a_defense_freezes_share_no_gradient_and_can_be_attacked(shapes):
    class Frozen(defenses.Defense):
        name = "frozen"

        def extend_model(self, module):
            module[0].requires_grad_(False)
            return module

    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    private = make_private(Frozen(), dataset, "lenet", Training(), 0)
    settings = Evaluation(victims=3)
    victims = choose_victims(dataset, settings, 0)
    observation = observe(private, victims, dataset, settings, 0)
    assert "0.weight" not in observation.gradients and "2.weight" in observation.gradients
    rows, _ = attack_rows(attacks.create("inverting-gradients(iterations=2)"), observation, victims, 0)
    assert len(rows) == 3 and all(np.isfinite(row["cost"]) for row in rows)


def test_rows_follow_the_originals_whatever_the_order_of_the_reconstructions(shapes):
    _, victims, observation, _ = observed(shapes, batch_size=3, labels="inferred")

    class Perfect(Attack):
        name, tier = "perfect", "static"

        def reconstruct(self, observation, *, seed, progress=None):
            return Reconstruction(torch.from_numpy(victims.pixels).flip(1), victims.labels.flip(1), torch.tensor([1.0, 2.0, 3.0]))

    rows, ordered = attack_rows(Perfect(), observation, victims, 0)
    assert np.array_equal(ordered["perfect"], victims.pixels)
    assert [(r["victim"], r["image"]) for r in rows] == [(v, i) for v in range(3) for i in range(3)]
    assert all(r["ssim"] == pytest.approx(1) and r["mse"] == 0 and r["psnr"] == np.inf and r["label_correct"] for r in rows)
    assert [r["cost"] for r in rows] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_labels_that_were_given_are_not_counted_as_inferred(shapes):
    _, victims, observation, _ = observed(shapes)
    rows, _ = attack_rows(attacks.create("inverting-gradients(iterations=2)"), observation, victims, 0)
    assert {r["label_correct"] for r in rows} == {None}


def test_metrics_by_hand():
    original = np.zeros((1, 2, 8, 8))
    original[0, 0] = np.linspace(0, 1, 64).reshape(8, 8)
    noisy = np.clip(original + 0.1, 0, 1)
    (match,) = metrics.compare(original, noisy)
    assert match.mse == pytest.approx(np.mean((original - noisy) ** 2))
    assert match.psnr == pytest.approx(10 * np.log10(1 / match.mse))
    each = [structural_similarity(original[0, c], noisy[0, c], data_range=1.0) for c in range(2)]
    assert match.ssim == pytest.approx(np.mean(each))


def test_an_attack_that_chooses_is_followed_by_its_oracle_bound(shapes, monkeypatch):
    monkeypatch.setattr("attacks.portfolio.BUDGETS", {"standard": (5, 1)})
    _, victims, observation, _ = observed(shapes, "precode")
    rows, ordered = attack_rows(attacks.WorstCase(), observation, victims, 0)
    chosen, bound = ([row for row in rows if row["tier"] == tier] for tier in ("worst case", "oracle bound"))
    assert len(chosen) == len(bound) == 3
    assert all(b["ssim"] >= c["ssim"] for b, c in zip(bound, chosen, strict=True))
    members = {member.label for member in attacks.WorstCase().members(observation)}
    assert {row["won_by"] for row in (*chosen, *bound)} <= members
    assert set(ordered) == {chosen[0]["attack"], bound[0]["attack"], *members}
    for place in {bound[0]["won_by"], chosen[0]["won_by"]}:
        single, images = attack_rows(attacks.create(place), observation, victims, 0)
        again = [row for row in rows if row["attack"] == place]
        assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in single]
        np.testing.assert_array_equal(images[place], ordered[place])
    for victim, (c, b) in enumerate(zip(chosen, bound, strict=True)):
        of_victim = {row["attack"]: row["ssim"] for row in rows if row["victim"] == victim and row["attack"] in members}
        assert b["ssim"] == max(of_victim.values()) and c["ssim"] == of_victim[c["won_by"]]


def test_rounds_are_averaged(shapes):
    private, victims, observation, _ = observed(shapes, "noise(std=0.1)", rounds=3)
    _, _, once, _ = observed(shapes, "noise(std=0.1)")
    from attacks.seeds import derive
    assert once.averaged is None and observation.rounds == 3
    assert all(torch.equal(g, once.gradients[name]) for name, g in observation.gradients.items())
    for victim in range(3):
        shared = [private.shared_gradient(victims.images[victim], victims.labels[victim], seed=derive(5, victim, "client", *again))
                  for again in ((), (1,), (2,))]
        for name, g in observation.averaged.items():
            torch.testing.assert_close(g[victim], torch.stack([s[name] for s in shared]).mean(0))


def test_labels_are_right_as_a_set_with_counts():
    from benchmark.evaluation import _labels_right
    assert _labels_right([1, 1, 2], [2, 1, 3]) == [True, True, False]
    assert _labels_right([1, 2], [1, 1]) == [True, False]


def test_assignment_is_the_best_of_all_permutations():
    from itertools import permutations
    generator = np.random.default_rng(0)
    originals = generator.random((4, 1, 8, 8))
    candidates = np.clip(originals[[2, 0, 3, 1]] + 0.5 * generator.random((4, 1, 8, 8)), 0, 1)
    best = max(sum(metrics.ssim(o, candidates[j]) for o, j in zip(originals, order, strict=True)) for order in permutations(range(4)))
    found = metrics.compare(originals, candidates)
    assert sum(m.ssim for m in found) == pytest.approx(best)
    assert sorted(m.position for m in found) == [0, 1, 2, 3]
