"""Candidates where a layer samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from identification_cases import Case, case_of, gradient_of
from stage_cases import Scaling

import defenses
from attacks.identification import Candidates, Identifier
from attacks.identification.features import exact_features
from attacks.identification.identifier import Method
from attacks.reading.layers import codes
from defenses import Composition
from defenses.stochastic import samples_of_codes, sampling, stochastic_layers


@pytest.mark.parametrize("model", ["lenet", "mlp", "batch-norm"])
@pytest.mark.parametrize(("defense", "method"), [
    ("precode(bottleneck_size=4)", "features"), ("ppp(bottleneck_size=4)", "features"), ("ppp(strength=0.5, perturbation='pruning')", "features"),
    ("precode(bottleneck_size=4)+clipping(norm=0.1)", "features"), ("precode(bottleneck_size=4)+noise(std=0.0001)", "replayed"),
    ("precode(bottleneck_size=4)+pruning(p=0.5)", "replayed"), ("precode(bottleneck_size=4)+rounded(width=0.0001)", "replayed"),
    ("dropout", "features"), ("dropout(p=0.2)+clipping(norm=0.1)", "features"), ("dropout+noise(std=0.0001)", "replayed"),
    ("precode(bottleneck_size=4)+dp-sgd(noise_multiplier=0.001)", "replayed"), ("precode(bottleneck_size=4)+decoy(weight=0.02)", "simulated"),
])
def test_sampling_hides_no_candidate(defense, method, model):
    """What entered the layer is read from its gradient; under noise, the gradients under the code that is read."""
    case = case_of(defense, model)
    assert Identifier().method(case.observation) == Method(method, False)
    ranks = case.ranks(Identifier().scores(case.observation, case.candidates, seed=0))
    assert not ranks.any() or method == "simulated"  # whose draws are of another code each


def test_labels_do_not_matter_where_features_are_read():
    """So that a candidate of the wrong class is told by its features as well."""
    case = case_of("precode(bottleneck_size=4)", labels_known=False)
    other = Case(case.observation, Candidates(case.candidates.images, 4 - case.candidates.labels, case.candidates.pools), case.true)
    found, expected = (Identifier().scores(one.observation, one.candidates, seed=0) for one in (other, case))
    torch.testing.assert_close(found, expected)
    assert not case.ranks(expected).any()


def test_the_score_of_features_is_their_distance():
    case = case_of("precode(bottleneck_size=4)", dtype=torch.float64)
    module = case.observation.module
    entered = module[2](module[1](module[0](case.candidates.images))).detach()
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    for victim, pool in enumerate(case.candidates.pools):
        own = entered[pool[case.true[victim]]]
        expected = (entered[pool] - own).square().sum(1) / (2e-6 * own.square().mean())
        torch.testing.assert_close(found[victim], expected, rtol=1e-6, atol=1e-6)


def test_the_score_of_what_was_kept_is_the_distance_there():
    """Of the features of a candidate those alone that the client did not drop."""
    case = case_of("dropout", dtype=torch.float64)
    module, (code,) = case.observation.module, codes(case.observation)
    entered = module[2](module[1](module[0](case.candidates.images))).detach()
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    for victim, pool in enumerate(case.candidates.pools):
        kept = code[victim, 0] != 0
        assert 0 < kept.sum() < len(kept)
        own = entered[pool[case.true[victim]]]
        expected = (entered[pool] - own)[:, kept].square().sum(1) / (2e-6 * own[kept].square().sum() / len(kept))
        torch.testing.assert_close(found[victim], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("defense", "exact"), [
    ("precode", True), ("ppp", True), ("precode+noise", False), ("precode+pruning", False), ("precode+clipping(norm=0.1)", True), ("none", False),
    ("dropout", True), ("precode+dropout", True), ("dropout+noise", False), ("cvb", False), ("precode+decoy", False), (Composition((defenses.PRECODE(), Scaling(-3.0))), True)])
def test_which_features_are_exact(defense, exact):
    assert bool(exact_features(case_of(defense, "mlp").observation)) is exact
    assert not exact_features(case_of(defense, "mlp", batch_size=2, public=0).observation)
    assert not exact_features(case_of(defense, "mlp").observation.blind())


@given(std=st.sampled_from([1e-4, 1e-2]))
def test_replayed_codes_give_the_likelihood_of_the_layers_that_see_the_image(std):
    """Of gradients under the code that was read, up to the layer that the features enter, by autograd."""
    case = case_of(f"precode(bottleneck_size=3)+noise(std={std})", dtype=torch.float64)
    observation, read = case.observation, codes(case.observation)
    found = Identifier().scores(observation, case.candidates, seed=0)
    layers = list(stochastic_layers(observation.module).values())
    for victim, pool in enumerate(case.candidates.pools):
        expected = []
        for candidate in pool:
            image = case.candidates.images[candidate]
            samples = samples_of_codes(layers, [code[victim] for code in read], lambda image=image: observation.module(image[None]))
            with sampling(layers, [own.detach() for own in samples]):
                own = gradient_of(observation, case.candidates.images[candidate], case.candidates.labels[candidate])
            expected.append(sum((g - observation.shared[name][victim]).square().sum() for name, g in own.items()
                                if "decoder" not in name and "classifier" not in name) / (2 * std**2))
        torch.testing.assert_close(found[victim], torch.stack(expected), rtol=1e-6, atol=1e-3)


def test_a_blind_attacker_samples_the_same_for_all_candidates():
    """By its seed; otherwise the draw would decide between them."""
    case = case_of("precode(bottleneck_size=4)", dtype=torch.float64)
    blind = case.observation.blind()
    first, again, other = (Identifier().scores(blind, case.candidates, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    same = Candidates(case.candidates.images[:1].expand(4, -1, -1, -1), case.candidates.labels[:1].expand(4),
                                     torch.arange(4).expand(3, -1))
    scores = Identifier().scores(blind, same, seed=0)
    torch.testing.assert_close(scores, scores[:, :1].expand_as(scores))
