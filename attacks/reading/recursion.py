"""Reading a network backwards: from what entered a layer and the error there, what entered the layer before it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.base import Observation
from attacks.reading.chain import Link, chain_to
from attacks.reading.labels import known_or_inferred_labels, label_obstacle
from attacks.reading.layers import codes, concealed, last_features, last_of_two, replay_obstacle, seen_inputs, told_by_codes
from attacks.reading.layers import features as features_before_sampling
from attacks.reading.least_squares import least_squares
from attacks.reading.releases import alteration
from defenses import client_loss
from defenses.stages import Kept, Stage
from defenses.stochastic import sampling

#: Weight of the equations that the gradient gives, relative to those of the output, when both are scaled to the size of their
#: operators. Untrained LeNet, 32 CIFAR-10 victims, 100 and 60 iterations of the two first layers, mean SSIM: 0.13 with 0.3, 0.85
#: with 1, 0.91 with 3, 0.78 with 6.
_GRADIENT = 3.0
#: Of |A^T r|, relative to its first value.
_TOLERANCE = 1e-8
#: An output of a bounded activation this near to its bounds tells nothing more of what entered it.
_EDGE = 1e-7
#: Victims whose equations are solved at once, by the type of device: on a CPU so few that they stay in its cache.
_AT_ONCE = {"cpu": 8}
#: Times that features are filled in from the layer before, at most, and by how much of their norm they move while it goes on.
#: Trained LeNet, 16 CIFAR-10 victims under Soteria: of 40 % and of 80 % hidden features 14 come within some thousandths of all, and
#: no more do with four times as many.
_FILLINGS = 100
_MOVED = 1e-6
#: Of the linear solver in each, which begins where it ended.
_ITERATIONS = 10
_TRANSPARENT = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
_ACTIVATIONS = (nn.Sigmoid, nn.Tanh, nn.ReLU, nn.LeakyReLU)
_RANGES: dict[type[nn.Module], tuple[float, float]] = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0), nn.ReLU: (0.0, float("inf"))}


class _Last(NamedTuple):
    """A layer of which what entered is read, where the chain of those before it ends: ``value`` [N, S, d] of the S images behind
    the gradient, and which of it is told, None for all; the linear layer whose gradient tells it, with what entered that; and the
    derivative by what leaves that, [N, S, o], where it was read too."""

    place: str
    value: Tensor
    where: Tensor | None
    linear: str
    entered: Tensor
    behind: Tensor | None = None


class Known(NamedTuple):
    """What is known at a place of the network, [N, S, ...] of S images: what passes there, the derivative of the loss by it, and
    which of the values are known, None for all."""

    value: Tensor
    error: Tensor
    where: Tensor | None = None


def recursion_obstacle(observation: Observation) -> str | None:
    """Why the network cannot be read backwards, or None when it can."""
    found = _begin(observation)
    return found if isinstance(found, str) else None


def read_backwards(observation: Observation, left: int, iterations: int) -> tuple[list[Link], Known]:
    """What leaves the first ``left`` layers with parameters and what follows them, read from the gradients of the layers behind
    (R-GAP; Zhu & Blaschko, ICLR 2021).

    The features that entered the last layer (or a stochastic one), and so the error there, follow from its gradient. A layer
    y = W * x + b before it has the gradient G = d * x, where d is the error of y: an activation that can be inverted tells y and d,
    and both equations are linear in x. For one image they are more than there are unknowns in most convolutions. Of an
    image and a concealing one beside it, which the gradient of the last layer tells apart, both are read: each has outputs of its
    own, and both have the gradient together. Each layer adds to the errors of those behind it.

    Args:
        observation: with one image of the client behind each gradient, none altered but for one factor of all, as by clipping. The
            features do not depend on it, and so tell what the gradient of the last layer was before. Or parts of each gradient were
            left as they were (:meth:`defenses.stages.Stage.shown`); then these alone give equations.
        left: layers with parameters that are not read; with 0 the image itself is what is known.
        iterations: of the linear solver, for each layer.

    Returns:
        The links that are left, from the image on, and what is known where they end.

    Raises:
        ValueError: see :func:`recursion_obstacle`.
    """
    found = _begin(observation)
    if isinstance(found, str):
        raise ValueError(found)
    links, last = found
    known, observation = _begun(observation, _filled(links, last, observation, iterations))
    while links and sum(_has_weights(link) for link in links) > left:
        link = links.pop()
        known = _before(link, known, observation, iterations)
    while links and not _has_weights(links[-1]) and not left:
        known = _before(links.pop(), known, observation, iterations)
    return links, known


def _begin(observation: Observation) -> tuple[list[Link], _Last] | str:
    """The links before a layer of known input, and that layer; or why there is none."""
    found = _last(observation)
    if isinstance(found, str):
        return found
    links = _links(observation, found.place)
    return links if isinstance(links, str) else (links, found)


def _links(observation: Observation, place: str, begin: str | None = None) -> list[Link] | str:
    """The links before a layer, from the image or from a layer on; or why they cannot be read."""
    links = chain_to(observation, place, begin)
    if isinstance(links, str):
        return links
    for link in links:
        if not isinstance(link.module, (nn.Conv2d, nn.Linear, *_TRANSPARENT, *_ACTIVATIONS)):
            return f"no rule reads a {type(link.module).__name__} backwards"
        if isinstance(link.module, nn.Conv2d) and (link.module.groups > 1 or link.module.padding_mode != "zeros"
                                                   or isinstance(link.module.padding, str)):
            return "no rule reads a convolution in groups, or padded otherwise than by zeros, backwards"
        if _has_weights(link) and f"{link.name}.weight" not in observation.shared:
            return f"no gradient was observed of {link.name}"
    if not any(_has_weights(link) for link in links):
        return f"no layer comes before {place}"
    return links


def code_obstacle(observation: Observation) -> str | None:
    """Why the code of the stochastic layer cannot be read backwards from the last layer, or None when it can."""
    found = _behind_code(observation)
    return found if isinstance(found, str) else None


def read_code(observation: Observation, iterations: int) -> tuple[Tensor, ...]:
    """The code of the stochastic layer at the client, [N, 1, *shape], read from the gradients of the layers behind it: what is
    random is not there, since they are a network of their own, of which the code is the input.

    Args:
        observation: with one image behind each gradient, none of which was altered.
        iterations: of the linear solver, for each layer.

    Raises:
        ValueError: see :func:`code_obstacle`.
    """
    found = _behind_code(observation)
    if isinstance(found, str):
        raise ValueError(found)
    links, last = found
    known, observation = _begun(observation, last)
    for link in reversed(links):
        known = _before(link, known, observation, iterations)
    return (known.value.to(observation.mean).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0),)


def _behind_code(observation: Observation) -> tuple[list[Link], _Last] | str:
    """The links from the layer that the code enters to the last, and that layer; or why not."""
    places = [f"{name}.{layer.reads_code}" for name, layer in observation.stochastic.items() if layer.reads_code]
    if len(observation.stochastic) != 1 or not places:
        return "there is no single stochastic layer whose code enters a layer of its own"
    found = _last(observation)
    if isinstance(found, str):
        return found
    links = _links(observation, found.place, places[0])
    return links if isinstance(links, str) else (links, found)


def _last(observation: Observation) -> _Last | str:
    """The last layer, or the first stochastic one; or why what entered it is not read."""
    reason = label_obstacle(observation)
    if reason is not None:
        return reason
    if observation.batch_size > 1:
        return f"layers are read from the gradient of one image, not of {observation.batch_size}"
    if concealed(observation):
        both = last_features(observation)
        if isinstance(both, str):
            return both
        (place, value), = both.items()
        return _Last(place, value, None, place, value, last_of_two(observation)[1])
    whole = [name for name in observation.shared if parts_left(observation, name) is None]
    if (reason := alteration(observation, whole)) is not None:
        return f"layers are read from gradients as they were computed, and {reason}"
    if replay_obstacle(observation) is None:
        if told_by_codes(observation):
            (name, layer), code = next(iter(observation.stochastic.items())), codes(observation)[0]
            return _Last(name, *layer.told(code), f"{name}.{layer.reads_code}", code)
        found: dict[str, Tensor] | str = features_before_sampling(observation)
        if not found:
            return "the features before the stochastic layer do not enter a linear layer"
    else:
        found = last_features(observation)
    if isinstance(found, str):
        return found
    place, value = next(iter(found.items()))
    where = seen_inputs(observation, place)
    if where is not None:  # the others are taken for as large as these, so that the error behind them is nearly right
        middle = (value * where).sum(-1, keepdim=True) / where.sum(-1, keepdim=True).clamp_min(1)
        value = torch.where(where, value, middle)
    return _Last(place, value, where, place, value, _behind(observation, place) if where is not None else None)


def _behind(observation: Observation, linear: str) -> Tensor | None:
    """The derivative by what leaves a linear layer, [N, 1, o], which is the gradient of its bias, where that is as it was computed:
    it does not depend on features that are not known."""
    bias = f"{linear}.bias" if linear else "bias"
    return None if observation.releases()[bias].stages else observation.shared[bias][:, None]


def parts_left(observation: Observation, parameter: str) -> Stage | None:
    """The stage that parts of a parameter's gradient passed as they were, where it is the only one."""
    stages = observation.releases()[parameter].stages
    alone = len(stages) == 1 and type(stages[0]).shown is not Stage.shown
    return stages[0] if alone and not (isinstance(stages[0], Kept) and stages[0].mask is None) else None


def _filled(links: list[Link], last: _Last, observation: Observation, iterations: int) -> _Last:
    """With the features that its gradient does not tell, from the layer before them (ours): what entered that one is read under the
    errors that follow from all features, and tells them again, until they change no more."""
    if last.where is None or last.place != last.linear:
        return last
    first, before = max(place for place, link in enumerate(links) if _has_weights(link)), None
    hidden, moving = ~last.where, torch.ones_like(last.where[..., :1])
    for _ in range(_FILLINGS):
        known, seen = _begun(observation, last)
        for link in reversed(links[first + 1:]):
            known = _before(link, known, seen, iterations)
        before = _before(links[first], known, seen, min(iterations, _ITERATIONS), before).value.nan_to_num()
        with torch.no_grad():
            found = _possible(before.flatten(0, 1), links[:first])
            for link in links[first:]:
                found = link.module(found)
            # A victim that is done stays as it is, so that it does not depend on the others.
            value = torch.where(hidden & moving, found.view_as(last.value).nan_to_num(), last.value)
            moving = moving & ((value - last.value).norm(dim=-1, keepdim=True) > _MOVED * value.norm(dim=-1, keepdim=True))
        last = last._replace(value=value, entered=value)
        if not any(moving.flatten().tolist()):
            break
    return last


def _possible(value: Tensor, before: list[Link]) -> Tensor:
    """What an activation can give that is nearest to a value."""
    activation = next((link.module for link in reversed(before) if not isinstance(link.module, _TRANSPARENT)), None)
    low, high = next((bounds for kind, bounds in _RANGES.items() if isinstance(activation, kind)), (None, None))
    return value if low is None else value.clamp(low, high)


def _has_weights(link: Link) -> bool:
    return isinstance(link.module, (nn.Conv2d, nn.Linear))


def _begun(observation: Observation, last: _Last) -> tuple[Known, Observation]:
    """What is known at a layer of which the input is, and the gradients as they were before all were scaled by one factor: what
    enters a linear layer tells its own gradient, and that the factor."""
    if last.behind is not None:
        weight = observation.module.get_parameter(f"{last.linear}.weight" if last.linear else "weight").detach()
        return Known(last.value, last.behind @ weight, last.where), observation
    known, behind = _errors(observation, last)
    releases = observation.releases()
    if not any(release.stages and parts_left(observation, name) is None for name, release in releases.items()):
        return known, observation
    own = torch.einsum("no,ni->noi", behind, last.entered.flatten(1)).flatten(1)
    shared = observation.shared[f"{last.linear}.weight"].flatten(1)
    tiny = torch.finfo(own.dtype).tiny
    factor = ((shared * own).sum(1) / own.square().sum(1).clamp_min(tiny)).clamp_min(tiny)
    unscaled = {name: g / factor.view(-1, *[1] * (g.dim() - 1)) for name, g in observation.shared.items()}
    return known, replace(observation, shared=unscaled)


def _errors(observation: Observation, last: _Last) -> tuple[Known, Tensor]:
    """What enters a layer with the derivative of the client's loss by it, through the layers behind it, all of which is known; and
    the derivative by what leaves it [N, outputs]."""
    features = last.value.flatten(1).detach().clone().requires_grad_()
    labels = known_or_inferred_labels(observation)
    stochastic = list(observation.stochastic.values())
    sampled = [code.flatten(0, 1) for code in codes(observation)] if replay_obstacle(observation) is None else []
    images = observation.mean.new_zeros(len(observation), *observation.image_shape)

    outputs: list[Tensor] = []

    def put_in(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
        return (features.view_as(arguments[0]), *arguments[1:])

    with ExitStack() as restored:
        layer = observation.module.get_submodule(last.place)
        restored.callback(layer.register_forward_pre_hook(put_in).remove)
        restored.callback(layer.register_forward_hook(lambda module, arguments, output: outputs.append(output)).remove)
        restored.enter_context(sampling(stochastic, codes=sampled))
        loss = client_loss(observation.defense, observation.module, images, labels.flatten(0, 1)).sum()
        error, behind = torch.autograd.grad(loss, (features, outputs[0]))
    return Known(features.detach()[:, None], error[:, None], last.where), behind.flatten(1)


def _before(link: Link, known: Known, observation: Observation, iterations: int, start: Tensor | None = None) -> Known:
    """What is known of what entered a link, from what is known of what left it; the solver begins at ``start``, or at zero."""
    with torch.no_grad():
        if isinstance(link.module, _ACTIVATIONS):
            return _before_activation(link, known)
        if isinstance(link.module, nn.Conv2d):
            stage = parts_left(observation, f"{link.name}.weight")
            gradients = observation.shared[f"{link.name}.weight"].split(_AT_ONCE.get(observation.device.type, len(observation)))
            found = []
            for place, gradient in enumerate(gradients):
                some = slice(place * len(gradients[0]), place * len(gradients[0]) + len(gradient))
                part = Known(known.value[some], known.error[some], None if known.where is None else known.where[some])
                shown = None if stage is None else stage.shown(gradient)
                begin = gradient.new_zeros(len(gradient), known.value.shape[1], *link.shape) if start is None else start[some]
                found.append(_before_convolution(link.module, link, part, gradient, shown or _all, begin, iterations))
            return Known(torch.cat([one.value for one in found]), torch.cat([one.error for one in found]))
        if isinstance(link.module, nn.Linear):
            gradient = observation.shared[f"{link.name}.weight"]
            # One image: G = d x^T, of which d tells x by least squares.
            stage, where = parts_left(observation, f"{link.name}.weight"), None
            squared = known.error.square().sum(2, keepdim=True)
            if stage is not None and not stage.spares_rank_one and (shown := stage.shown(gradient)) is not None:
                squared = torch.einsum("nso,noi->nsi", known.error.square(), shown(torch.ones_like(gradient)))
                where = (squared > 0).unflatten(2, link.shape)
            if known.error.shape[1] == 1:
                value = torch.where(squared > 0, torch.einsum("nso,noi->nsi", known.error, gradient) / squared, 0)
            else:  # the sum over images, which differ in the errors of their outputs
                value = torch.linalg.pinv(known.error.mT.double()).to(gradient) @ gradient
            error = known.error @ link.module.weight
            return Known(value.unflatten(2, link.shape), error.unflatten(2, link.shape), where)
        shaped = [None if one is None else one.reshape(*one.shape[:2], *link.shape) for one in known]
        return Known(*shaped)  # type: ignore[arg-type]


def _before_activation(link: Link, known: Known) -> Known:
    value, where = known.value, known.where
    if isinstance(link.module, nn.Sigmoid):
        before = value.clamp(_EDGE, 1 - _EDGE).logit()
    elif isinstance(link.module, nn.Tanh):
        before = value.clamp(_EDGE - 1, 1 - _EDGE).atanh()
    elif isinstance(link.module, nn.LeakyReLU):
        before = torch.where(value < 0, value / link.module.negative_slope, value)
    else:  # ReLU: what is zero was anything below
        positive = value > 1e-6 * value.flatten(2).amax(2).view(*value.shape[:2], *[1] * (value.dim() - 2))
        where = positive if where is None else where & positive
        before = torch.where(positive, value, 0)
    with torch.enable_grad():
        leaf = before.detach().requires_grad_()
        after = F.relu(leaf) if isinstance(link.module, nn.ReLU) else link.module(leaf)  # which may be done in place
        (slope,) = torch.autograd.grad(after.sum(), leaf)
    return Known(before, known.error * slope, where)


def _all(gradient: Tensor) -> Tensor:
    return gradient


def _before_convolution(layer: nn.Conv2d, link: Link, known: Known, gradient: Tensor, shown: Callable[[Tensor], Tensor],
                        start: Tensor, iterations: int) -> Known:
    """``shown`` gives the part of a gradient [N, *weight.shape] that was left as it was, all of which ``gradient`` then is; it is
    the sum over the images."""
    weight = layer.weight
    how: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    images, size = known.value.shape[1], known.value.shape[2:]
    flat, errors = weight.flatten(1), known.error.flatten(3)
    output = known.value if layer.bias is None else known.value - layer.bias.view(-1, 1, 1)
    if known.where is not None:
        output = output * known.where
    scale = _GRADIENT / errors.flatten(1).norm(dim=1).clamp_min(torch.finfo(errors.dtype).tiny).view(-1, 1, 1, 1)
    errors = errors * scale

    def folded(patches: Tensor) -> Tensor:
        return F.fold(patches.flatten(0, 1), link.shape[1:], layer.kernel_size, **how).unflatten(0, (-1, images))

    def operator(x: Tensor) -> list[Tensor]:
        patches = F.unfold(x.flatten(0, 1), layer.kernel_size, **how).unflatten(0, (-1, images))
        forward = (flat @ patches).unflatten(3, size[1:])
        own = (errors @ patches.mT).sum(1).view_as(gradient)
        return [forward if known.where is None else forward * known.where, shown(own)]

    def adjoint(residual: list[Tensor]) -> Tensor:
        forward = residual[0] if known.where is None else residual[0] * known.where
        own = shown(residual[1]).flatten(2)
        return folded(flat.T @ forward.flatten(3) + own.mT[:, None] @ errors)

    value = least_squares(operator, adjoint, [output, gradient * scale[:, 0, ..., None, None]], start, iterations=iterations,
                          tolerance=_TOLERANCE)
    return Known(value, folded(flat.T @ known.error.flatten(3)))
