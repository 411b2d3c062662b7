"""Matching steps that never form the gradients of large layers: one forward and two backward passes for all victims."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import Observation
from attacks.engine.attention import twice_differentiable
from attacks.engine.layers import Observed, Rule, rule_of
from attacks.engine.memory import saved_bytes
from attacks.engine.slots import Slots
from attacks.engine.step import MatchingStep, image_losses
from attacks.engine.tracing import Unsuitable, captured, check_layers, uses, with_parameters
from attacks.objective.comparison import Comparison
from attacks.objective.objective import Objective
from defenses.stochastic import samples_of_codes, sampling
from defenses.support.watching import watching


class StructuredStep(MatchingStep):
    """An objective and its image derivative, from the inputs and errors of the layers.

    Raises:
        Unsuitable: there is a layer without a rule, or the model uses its layers in another way than once an image.
    """

    def __init__(self, observation: Observation, labels: Tensor, objective: Objective, slots: Slots) -> None:
        check_layers(observation, objective.weight)
        if any(objective.weight(name) for name in (*objective.passes, *objective.judges)):
            raise Unsuitable("the gradient of a candidate goes through stages of the defense")
        super().__init__(observation, labels, objective, slots)
        self._layers: list[tuple[str, nn.Module, Rule]] = []
        self._idle = []
        shapes, self._written_into, self._attends = uses(observation, observation.batch_size)
        for name, module in with_parameters(observation.module):
            prefix = f"{name}." if name else ""
            own = [child for child, _ in module.named_parameters(recurse=False) if prefix + child in self._squared]
            if module not in shapes:  # it does not run, so that its gradient is zero
                self._idle += [prefix + child for child in own]
            elif own:
                found = rule_of(module)
                assert found is not None
                observed = Observed(observation, prefix, own, objective.masks, slots, distance=objective.cost.distance)
                self._layers.append((prefix, module, found(module, observed, *shapes[module])))

    def kept_bytes(self, image: Tensor, samples: list[Tensor]) -> int:
        return 2 * saved_bytes(lambda: self(image, samples), shared=self._module.parameters())

    def _derivatives(self, images: Tensor, others: list[Tensor], samples: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        given = [t.detach().requires_grad_() for t in (images, *others)]
        logits, samples = self._logits_and_samples(given[1:], samples)
        labels = self._labels.value.flatten(0, 1) if logits is None else logits.flatten(0, 1).softmax(-1)
        objective = self._with_sample_prior(self._evaluate(given[0], labels, samples), samples)
        return torch.autograd.grad(objective.sum(), given, materialize_grads=True), objective.detach()

    def _evaluate(self, x: Tensor, labels: Tensor, samples: list[Tensor]) -> Tensor:
        candidates, samples = x.flatten(0, 1), [own.flatten(0, 1) for own in samples]
        with ExitStack() as restored:
            if self._attends:
                restored.enter_context(twice_differentiable())
            if self._codes:
                samples = samples_of_codes(self._stochastic, [code.value.flatten(0, 1) for code in self._codes],
                                           lambda: self._module(candidates))
            inputs, outputs = restored.enter_context(captured([layer for _, layer, _ in self._layers], self._written_into))
            for _, layer, rule in self._layers:
                if rule.forward is not None:
                    restored.enter_context(_forward(layer, rule.forward))
            restored.enter_context(sampling(self._stochastic, samples))
            entered = restored.enter_context(watching(self._read))
            losses = image_losses(self._defense, self._module, candidates, labels,
                                  [errors.value.flatten(0, 1) for errors in self._errors])
        loss = losses.sum() / x.shape[1]  # of each victim the mean over its images
        errors = torch.autograd.grad(loss, [outputs[layer] for _, layer, _ in self._layers], create_graph=True)
        compared = {}
        for (prefix, layer, rule), error in zip(self._layers, errors, strict=True):
            for child, comparison in rule(inputs[layer], error).items():
                compared[prefix + child] = comparison
        observed = {name: held.value for name, held in self._squared.items()}
        for name in self._idle:
            nothing = torch.zeros_like(observed[name])
            compared[name] = Comparison(nothing, nothing)
        return self._with_distances(self._objective(compared, observed), self._terms_held(), entered)


@contextmanager
def _forward(layer: nn.Module, replacement: Any) -> Iterator[None]:
    layer.forward = replacement
    try:
        yield
    finally:
        del layer.forward
