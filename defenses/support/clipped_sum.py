"""The sum of the gradients of single samples, each clipped, by one backward pass and without forming those of linear layers.

The gradient of a layer's parameters is a product of what entered the layer and of what came back to its output. One backward pass
to the outputs alone therefore tells the norm of each sample's gradient, and then, each sample's share scaled, the sum: the
book-keeping of Bu et al. (ICML 2023), where ghost clipping runs a second backward pass for the sum, and forms gradients of weights
in the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.linear import compute_linear_norm_sample
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from defenses.support.out_of_place import OutOfPlace

#: Keeps a norm of zero from dividing, as in Opacus.
_EPSILON = 1e-6
#: Entries of patches at once, by the type of device: on a CPU so few that they stay in its cache, and that the C library does not
#: give their pages back each time, which takes longer than filling them.
_PATCHES = {"cpu": 2**18, "cuda": 2**26}


class _Rule(NamedTuple):
    """What is known of a kind of layer: whether it covers one, the squared norm [B] of each sample's gradient, and the sum of the
    gradients by parameter, both from what entered the layer and what came back to its output."""

    covers: Callable[[nn.Module], bool]
    squares: Callable[[nn.Module, Tensor, Tensor], Tensor]
    total: Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]


class _Call(NamedTuple):
    """A layer as it was run; the version tells whether its output was written to afterwards."""

    layer: nn.Module
    entered: Tensor
    output: Tensor
    version: int


def clipped_sum(module: nn.Module, losses_of: Callable[[], Tensor], max_norm: float) -> tuple[dict[str, Tensor], Tensor] | None:
    """The sum over samples of min(1, max_norm / norm) times the gradient of the sample's loss, by parameter name, and the losses.

    Args:
        module: the model, whose layers mix no samples.
        losses_of: runs it and returns the loss of each sample [B], B > 0.
        max_norm: L2 norm that the gradient of each sample, over all parameters, is clipped to, > 0.

    Returns:
        None where a trainable parameter is not that of a linear or convolutional layer or a group or layer norm, or enters the loss
        other than by one run of its layer (weights that are shared, a regularizer that reads them): norms do not add up so then.
        None also under autocast. Random numbers are then as if nothing had been run, so that who runs the model draws the same.
    """
    layers = _layers(module)
    if layers is None or _mixes_types(layers):
        return None
    random = _random_state(layers)
    with OutOfPlace(), _recorded(layers) as calls:
        losses = losses_of()
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    calls = [call for call in calls if call.output.requires_grad]
    if not calls or not _each_once(calls, losses, list(parameters.values())):
        _put_back(random)
        return None
    outputs = [call.output for call in calls]
    returned = torch.autograd.grad(losses.sum(), outputs, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        runs = [(_RULES[type(call.layer)], call.layer, call.entered, back) for call, back in zip(calls, returned, strict=True)]
        squares = torch.stack([rule.squares(layer, entered, back) for rule, layer, entered, back in runs]).sum(0)
        shares = (max_norm / (squares.sqrt() + _EPSILON)).clamp(max=1.0)
        summed: dict[int, Tensor] = {}
        for rule, layer, entered, back in runs:
            scaled = back * shares.view(-1, *[1] * (back.dim() - 1))
            summed |= {id(getattr(layer, name)): total for name, total in rule.total(layer, entered, scaled).items()}
        # A layer that was not run has no part in the loss.
        return {name: summed[id(p)] if id(p) in summed else torch.zeros_like(p) for name, p in parameters.items()}, losses.detach()


def _layers(module: nn.Module) -> list[nn.Module] | None:
    """The layers with trainable parameters; None where there is no rule for one."""
    found = [layer for layer in module.modules() if any(p.requires_grad for p in layer.parameters(recurse=False))]
    return found if all(_covered(layer) for layer in found) else None


def _covered(layer: nn.Module) -> bool:
    """By the exact type, since a class derived from a layer may compute something else; reparametrised weights have other names."""
    rule = _RULES.get(type(layer))
    return rule is not None and dict(layer.named_parameters(recurse=False)).keys() <= {"weight", "bias"} and rule.covers(layer)


def _mixes_types(layers: list[nn.Module]) -> bool:
    """Whether autocast computes some operations in another type."""
    kinds = {p.device.type for layer in layers for p in layer.parameters(recurse=False)}
    return any(torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) for kind in kinds)


def _random_state(layers: list[nn.Module]) -> dict[torch.device, Tensor]:
    """The states of the generators that dropout and stochastic layers draw from."""
    devices = {p.device for layer in layers for p in layer.parameters(recurse=False)}
    return {torch.device("cpu"): torch.get_rng_state(),
            **{device: torch.cuda.get_rng_state(device) for device in devices if device.type == "cuda"}}


def _put_back(states: dict[torch.device, Tensor]) -> None:
    for device, state in states.items():
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[_Call]]:
    """What the layers compute within the context."""
    calls: list[_Call] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs:  # none where it was given by name, and then its parameters are those of no recorded run
            calls.append(_Call(layer, inputs[0].detach(), output, output._version))

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _each_once(calls: list[_Call], losses: Tensor, parameters: list[nn.Parameter]) -> bool:
    """Whether each parameter that enters the losses does so by one recorded run of its layer, all in one precision."""
    if len({id(call.layer) for call in calls}) < len(calls):
        return False
    if any(call.output._version != call.version or not call.entered.dtype == call.output.dtype == parameters[0].dtype
           for call in calls):
        return False
    recorded = {id(p) for call in calls for p in call.layer.parameters(recurse=False)}
    uses = _uses(losses)
    return all(uses[id(p)] <= (id(p) in recorded) for p in parameters)


def _uses(losses: Tensor) -> Counter[int]:
    """How often each parameter, by its id, enters the graph of the losses."""
    uses: Counter[int] = Counter()
    # The set keeps the nodes alive, so that one is the same object each time it is met.
    seen, waiting = {losses.grad_fn}, [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        for before, _ in () if node is None else node.next_functions:
            if (variable := getattr(before, "variable", None)) is not None:
                uses[id(variable)] += 1
            elif before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    return uses


def _of_parameters(layer: nn.Module, totals: dict[str, Callable[[], Tensor]]) -> dict[str, Tensor]:
    """Of those of the layer's parameters that are trained."""
    trained = {name for name, p in layer.named_parameters(recurse=False) if p.requires_grad}
    return {name: total() for name, total in totals.items() if name in trained}


def _linear_squares(layer: nn.Module, entered: Tensor, back: Tensor) -> Tensor:
    if back.dim() > 3:  # all that lies between the samples and the features are positions
        entered, back = entered.flatten(1, -2), back.flatten(1, -2)
    norms = compute_linear_norm_sample(layer, [entered], back)
    return torch.stack([norm.square() for norm in norms.values()]).sum(0)


def _linear_total(layer: nn.Module, entered: Tensor, back: Tensor) -> dict[str, Tensor]:
    rows = back.flatten(0, -2)
    return _of_parameters(layer, {"weight": lambda: rows.t() @ entered.flatten(0, -2), "bias": lambda: rows.sum(0)})


def _convolution_squares(layer: nn.Module, entered: Tensor, back: Tensor) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    squares = back.new_zeros(len(back))
    if layer.weight.requires_grad:
        of_each = back[0, 0].numel() * layer.weight[0].numel() * layer.groups
        at_once = max(1, _PATCHES.get(back.device.type, _PATCHES["cuda"]) // of_each)
        squares += torch.cat([_of_filters(layer, *some) for some in zip(entered.split(at_once), back.split(at_once), strict=True)])
    if layer.bias is not None and layer.bias.requires_grad:
        squares += back.sum((2, 3)).square().sum(1)
    return squares


def _of_filters(layer: nn.Conv2d, entered: Tensor, back: Tensor) -> Tensor:
    """The squared norm [B] of the gradient of the filters."""
    of_groups = back.flatten(2).unflatten(1, (layer.groups, -1)).flatten(0, 1)
    return torch.bmm(of_groups, _patches(layer, entered)).square().sum((1, 2)).view(len(back), -1).sum(1)


def _patches(layer: nn.Conv2d, images: Tensor) -> Tensor:
    """What a convolution multiplies its weights with: [B * groups, positions, entries of a filter]. Channels come last among these
    entries, as in memory, where taking patches of the single channels takes twice as long."""
    assert not isinstance(layer.padding, str)
    top, left = layer.padding
    pixels = F.pad(images.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
    for side, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), start=1):
        pixels = pixels.unfold(side, dilation * (size - 1) + 1, stride)[..., ::dilation]
    batch, rows, columns, _, height, width = pixels.shape
    of_groups = pixels.unflatten(3, (layer.groups, -1)).permute(0, 3, 1, 2, 5, 6, 4)
    return of_groups.reshape(batch * layer.groups, rows * columns, height * width * of_groups.shape[-1])


def _convolution_total(layer: nn.Module, entered: Tensor, back: Tensor) -> dict[str, Tensor]:
    assert isinstance(layer, nn.Conv2d)
    place = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _of_parameters(layer, {
        "weight": lambda: conv2d_weight(entered, layer.weight.shape, back, *place), "bias": lambda: back.sum((0, 2, 3))})


def _norm_samples(layer: nn.Module, entered: Tensor, back: Tensor) -> dict[nn.Parameter, Tensor]:
    return GradSampleModule.GRAD_SAMPLERS[type(layer)](layer, [entered], back)


def _norm_squares(layer: nn.Module, entered: Tensor, back: Tensor) -> Tensor:
    samples = _norm_samples(layer, entered, back)
    return torch.stack([sample.flatten(1).square().sum(1) for p, sample in samples.items() if p.requires_grad]).sum(0)


def _norm_total(layer: nn.Module, entered: Tensor, back: Tensor) -> dict[str, Tensor]:
    samples = _norm_samples(layer, entered, back)
    names = {id(p): name for name, p in layer.named_parameters(recurse=False) if p.requires_grad}
    return {names[id(p)]: sample.sum(0) for p, sample in samples.items() if id(p) in names}


def _whole(layer: nn.Module) -> bool:
    return layer.weight is not None and layer.bias is not None


_NORM = _Rule(_whole, _norm_squares, _norm_total)
_RULES: dict[type[nn.Module], _Rule] = {
    nn.Linear: _Rule(lambda layer: True, _linear_squares, _linear_total),
    nn.Conv2d: _Rule(lambda layer: layer.padding_mode == "zeros" and not isinstance(layer.padding, str),
                     _convolution_squares, _convolution_total),
    nn.GroupNorm: _NORM,
    nn.LayerNorm: _NORM,
}
