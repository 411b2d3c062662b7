"""The gradients of single images, of many at once: from the layers' inputs and errors, or formed for any model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from attacks.base import Observation
from attacks.engine.general import ClientLoss
from attacks.engine.layers import Rule, rule_of
from attacks.engine.memory import saved_bytes
from attacks.engine.rows import FormedRows, Rows
from attacks.engine.tracing import Unsuitable, captured, check_layers, uses, with_parameters
from attacks.objective.comparison import root, total
from defenses import client_loss
from defenses.stochastic import samples_of_codes, sampling

log = logging.getLogger("leakboard")


class PerImage:
    """Computes the gradient of the client's loss on each of many images.

    Args:
        observation: has the model, and the loss of its defense; what was shared is not looked at.
        layers: whose parameters are wanted; None for all.
    """

    def __init__(self, observation: Observation, layers: Sequence[str] | None = None) -> None:
        self._observation = observation
        self._names = [name for name in observation.shared if layers is None or name.rpartition(".")[0] in layers]
        self._stochastic = list(observation.stochastic.values())
        self._layers: list[tuple[str, nn.Module, type[Rule]]] | None = None
        self._checked = False
        try:
            check_layers(observation, lambda name: name in self._names)
            shapes, self._written_into, _ = uses(observation, 1)
            self._layers = [(f"{name}." if name else "", module, found) for name, module in with_parameters(observation.module)
                            if module in shapes and (found := rule_of(module)) is not None]
        except Unsuitable as reason:
            self._told(str(reason))

    def __call__(self, images: Tensor, labels: Tensor, samples: Sequence[Tensor] | None = None, codes: Sequence[Tensor] = ()
                 ) -> dict[str, Rows]:
        """The gradients by parameter name.

        Args:
            images: [K, C, H, W], normalised.
            labels: [K].
            samples: of each stochastic layer, [K, *shape]; None for their means.
            codes: to be replayed by the stochastic layers, [K, *shape] each.
        """
        if codes:
            with torch.no_grad():
                samples = samples_of_codes(self._stochastic, codes, lambda: self._observation.module(images))
        if self._layers is None:
            return self._general(images, labels, samples)
        if not self._checked:
            # What a forward pass does beside its layers cannot be seen from the list of layers.
            self._checked = True
            some = images[:2], labels[:2], None if samples is None else [own[:2] for own in samples]
            own, formed = self._structured(self._layers, *some), self._general(*some)
            # Some gradients are nothing but rounding, as that of a bias before a norm.
            rounding = 1e-6 * root(total([rows.squared().sum() for rows in formed.values()]))
            if any(bool((own[name].entries(None) - rows.entries(None)).norm() > 1e-3 * root(rows.squared().sum()) + rounding)
                   for name, rows in formed.items()):
                self._told("the model uses its parameters in other ways than its layers do")
                self._layers = None
                return self._general(images, labels, samples)
        return self._structured(self._layers, images, labels, samples)

    def bytes_per_image(self) -> int:
        """What a call takes for each image."""
        # Of noise: of an image of zeros the first layer's gradient is zero, however it is used.
        pixels = torch.rand((1, *self._observation.image_shape), generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        mean, std = self._observation.mean.view(-1, 1, 1), self._observation.std.view(-1, 1, 1)
        image = (pixels.to(mean) - mean) / std
        label = torch.zeros(1, dtype=torch.long, device=image.device)
        with sampling(self._stochastic):
            kept = saved_bytes(lambda: client_loss(self._observation.defense, self._observation.module, image, label),
                               shared=self._observation.module.parameters())
        rows = self(image, label)
        return 3 * kept + 2 * sum(t.numel() * t.element_size() for of_name in rows.values() for t in of_name.tensors)

    def _structured(self, layers: list[tuple[str, nn.Module, type[Rule]]], images: Tensor, labels: Tensor,
                    samples: Sequence[Tensor] | None) -> dict[str, Rows]:
        observation = self._observation
        with ExitStack() as restored:
            restored.enter_context(torch.enable_grad())
            inputs, outputs = restored.enter_context(captured([layer for _, layer, _ in layers], self._written_into))
            restored.enter_context(sampling(self._stochastic, samples))
            losses = client_loss(observation.defense, observation.module, images, labels)
        errors = torch.autograd.grad(losses.sum(), [outputs[layer] for _, layer, _ in layers], allow_unused=True)
        found: dict[str, Rows] = {}
        for (prefix, layer, rule), error in zip(layers, errors, strict=True):
            if error is not None and any(prefix + child in self._names for child, _ in layer.named_parameters(recurse=False)):
                found.update((prefix + child, rows) for child, rows in rule.rows(layer, inputs[layer].detach(), error).items())
        # A layer that does not run, or nothing depends on, has a gradient of zero.
        sizes = {name: observation.shared[name][0].numel() for name in self._names}
        return {name: found.get(name) or FormedRows(images.new_zeros(len(images), size)) for name, size in sizes.items()}

    def _general(self, images: Tensor, labels: Tensor, samples: Sequence[Tensor] | None) -> dict[str, Rows]:
        loss = ClientLoss(self._observation.module, self._observation.defense)
        parameters = {name: p.detach() for name, p in loss.named_parameters() if p.requires_grad}

        def gradient(x: Tensor, y: Tensor, given: list[Tensor]) -> dict[str, Tensor]:
            with sampling(self._stochastic, None if samples is None else given):
                return grad(lambda parameters: functional_call(loss, parameters, (x, y)))(parameters)

        found = vmap(gradient)(images[:, None], labels[:, None], [own[:, None] for own in samples or ()])
        return {name: FormedRows(found["module." + name].flatten(1)) for name in self._names}

    def _told(self, reason: str) -> None:
        log.info("gradients of candidates are formed, which is slower: %s", reason)
