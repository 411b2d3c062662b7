from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

import attacks
import defenses
from attacks import Attack, Reconstruction
from benchmark.config import Evaluation, Training
from benchmark.data import datasets
from benchmark.measure import metrics
from benchmark.measure.evaluation import labels_right, mapped, observe, rebuild
from benchmark.measure.training import make_private
from benchmark.measure.victims import choose_victims

CPU = torch.device("cpu")


def observed(shapes, specification: str = "none", model: str = "lenet", batch_size: int = 1, **evaluation):
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    settings = Evaluation(**{"victims": 3, **evaluation})
    private = make_private(defenses.create(specification), dataset, model, Training(), 0)
    victims = choose_victims(dataset, settings, batch_size, 0)
    return private, victims, observe(private, victims, dataset, settings, seed=5), dataset


def test_victims_are_training_images_the_same_for_every_defense_and_model(shapes):
    _, plain, _, dataset = observed(shapes)
    _, other, _, _ = observed(shapes, "precode", "mlp")
    assert np.array_equal(plain.pixels, other.pixels)
    everything = dataset.train.pixels(torch.arange(len(dataset.train)))
    assert all((torch.from_numpy(p[0]) == everything).flatten(1).all(1).any() for p in plain.pixels)
    assert not np.array_equal(choose_victims(dataset, Evaluation(victims=3), 1, 1).pixels, plain.pixels)


@pytest.mark.parametrize("specification", ["none", "noise", "precode", "dp-sgd"])
def test_observed_is_what_the_client_shares(shapes, specification):
    private, victims, observation, _ = observed(shapes, specification, batch_size=2)
    from defenses.support.seeds import derive
    for victim in range(3):
        shared = private.shared_gradient(victims.images(victim), victims.labels[victim], seed=derive(5, victim, "client"))
        assert all(torch.equal(g, observation.shared[name][victim]) for name, g in shared.items())


def test_an_informed_attacker_has_the_defense_in_force(shapes):
    """With the multiplier that followed from the plan of the training, which is public."""
    private, _, observation, _ = observed(shapes, "dp-sgd(target_epsilon=3.0)")
    assert private.defense.noise_multiplier is None and observation.defense.noise_multiplier > 0.1
    assert observation.defense is private.in_force and observation.blind().defense is None


def test_batch_norm_models_are_observed_with_running_statistics(shapes):
    """A batch of one image has no batch statistics: training mode would raise at one pixel, and the buffers stay."""
    private, _, observation, _ = observed(shapes, model="torchvision:resnet18")
    assert all(torch.isfinite(g).all() for g in observation.shared.values())
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
    victims = choose_victims(dataset, settings, 1, 0)
    observation = observe(private, victims, dataset, settings, 0)
    assert "0.weight" not in observation.shared and "2.weight" in observation.shared
    rows = rebuild(attacks.create("inverting-gradients(iterations=2)"), observation, victims, 0).rows
    assert len(rows) == 3 and all(np.isfinite(row["cost"]) for row in rows)


def test_rows_follow_the_originals_whatever_the_order_of_the_reconstructions(shapes):
    _, victims, observation, _ = observed(shapes, batch_size=3, labels="inferred")

    class Perfect(Attack):
        name = "perfect"

        def reconstruct(self, observation, *, seed, progress=None):
            return Reconstruction(torch.from_numpy(victims.pixels).flip(1) / 255, victims.labels.flip(1), torch.tensor([1.0, 2.0, 3.0]))

    found = rebuild(Perfect(), observation, victims, 0)
    rows = found.rows
    assert np.array_equal(found.images["both"], victims.pixels.astype(np.float32) / 255)
    assert [(r["victim"], r["image"]) for r in rows] == [(v, i) for v in range(3) for i in range(3)]
    assert all(r["ssim"] == pytest.approx(1) and r["mse"] == 0 and r["psnr"] == np.inf and r["label_correct"] for r in rows)
    assert [r["cost"] for r in rows] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_labels_that_were_given_are_not_counted_as_inferred(shapes):
    _, victims, observation, _ = observed(shapes)
    rows = rebuild(attacks.create("inverting-gradients(iterations=2)"), observation, victims, 0).rows
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


def test_rounds_are_kept_each_and_averaged(shapes):
    from defenses.support.seeds import derive
    private, victims, observation, dataset = observed(shapes, "noise(std=0.1)", rounds=3)
    _, _, once, _ = observed(shapes, "noise(std=0.1)")
    assert len(once.rounds) == 1 and len(observation.rounds) == 3
    assert all(torch.equal(g, once.shared[name]) for name, g in observation.shared.items())
    mapped_too = observe(private, victims, dataset, Evaluation(victims=3, rounds=3), 5, in_memory=False)
    for number, one in enumerate(observation.rounds):
        assert one.number == 0 and one.module is observation.module
        again = (number,) if number else ()
        for victim in range(3):
            shared = private.shared_gradient(victims.images(victim), victims.labels[victim], seed=derive(5, victim, "client", *again))
            for name, g in shared.items():
                assert torch.equal(one.shared[name][victim], g) and torch.equal(mapped_too.rounds[number].shared[name][victim], g)
    for name, g in observation.averaged().shared.items():
        torch.testing.assert_close(g, torch.stack([one.shared[name] for one in observation.rounds]).mean(0))
        assert torch.equal(g, mapped_too.averaged().shared[name])


def test_a_mapped_tensor_is_one_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tensor = mapped((3, 4), torch.float32)
    tensor[1] = torch.arange(4.0)
    assert tensor.sum() == 6 and tensor[1].tolist() == [0, 1, 2, 3] and not list(tmp_path.iterdir())


def test_every_victim_begins_with_what_the_client_of_the_training_keeps(shapes):
    """And observing does not advance it."""
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    private = make_private(defenses.create("top-k(share=0.5)"), dataset, "lenet", Training(), 0)
    settings = Evaluation(victims=3)
    victims = choose_victims(dataset, settings, 1, 0)
    private.module.train()
    fresh = observe(private, victims, dataset, settings, 0)
    private.backward(*dataset.train.batch(torch.arange(8)))
    before = {name: t.clone() for name, t in private.state_dict().items()}
    found = observe(private, victims, dataset, settings, 0)
    assert all(torch.equal(t, before[name]) for name, t in private.state_dict().items())
    assert found.rounds[0].number == 1
    assert not torch.equal(found.shared["0.weight"], fresh.shared["0.weight"])
    alone = observe(private, victims.select(2, 1), dataset, settings, 0)
    assert torch.equal(alone.shared["0.weight"][0], found.shared["0.weight"][2])


def test_labels_are_right_as_a_set_with_counts():
    assert labels_right([1, 1, 2], [2, 1, 3]) == [True, True, False]
    assert labels_right([1, 2], [1, 1]) == [True, False]


def test_assignment_is_the_best_of_all_permutations():
    from itertools import permutations
    generator = np.random.default_rng(0)
    originals = generator.random((4, 1, 8, 8))
    candidates = np.clip(originals[[2, 0, 3, 1]] + 0.5 * generator.random((4, 1, 8, 8)), 0, 1)
    best = max(sum(metrics.ssim(o, candidates[j]) for o, j in zip(originals, order, strict=True)) for order in permutations(range(4)))
    found = metrics.compare(originals, candidates)
    assert sum(m.ssim for m in found) == pytest.approx(best)
    assert sorted(m.position for m in found) == [0, 1, 2, 3]
