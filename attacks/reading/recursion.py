"""Reading a network backwards: from what entered a layer and the error there, what entered the layer before it."""

from __future__ import annotations

from torch import Tensor, nn

from attacks.base import Observation
from attacks.reading.backwards import ACTIVATIONS, TRANSPARENT, Known, before_link, has_weights
from attacks.reading.beginning import Last, begun, known_last
from attacks.reading.chain import Link, chain_to
from attacks.reading.filling import filled


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
    known, observation = begun(observation, filled(links, last, observation, iterations))
    while links and sum(has_weights(link) for link in links) > left:
        link = links.pop()
        known = before_link(link, known, observation, iterations)
    while links and not has_weights(links[-1]) and not left:
        known = before_link(links.pop(), known, observation, iterations)
    return links, known


def _begin(observation: Observation) -> tuple[list[Link], Last] | str:
    """The links before a layer of known input, and that layer; or why there is none."""
    found = known_last(observation)
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
        if not isinstance(link.module, (nn.Conv2d, nn.Linear, *TRANSPARENT, *ACTIVATIONS)):
            return f"no rule reads a {type(link.module).__name__} backwards"
        if isinstance(link.module, nn.Conv2d) and (link.module.groups > 1 or link.module.padding_mode != "zeros"
                                                   or isinstance(link.module.padding, str)):
            return "no rule reads a convolution in groups, or padded otherwise than by zeros, backwards"
        if has_weights(link) and f"{link.name}.weight" not in observation.shared:
            return f"no gradient was observed of {link.name}"
    if not any(has_weights(link) for link in links):
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
    known, observation = begun(observation, last)
    for link in reversed(links):
        known = before_link(link, known, observation, iterations)
    return (known.value.to(observation.mean).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0),)


def _behind_code(observation: Observation) -> tuple[list[Link], Last] | str:
    """The links from the layer that the code enters to the last, and that layer; or why not."""
    places = [f"{name}.{layer.reads_code}" for name, layer in observation.stochastic.items() if layer.reads_code]
    if len(observation.stochastic) != 1 or not places:
        return "there is no single stochastic layer whose code enters a layer of its own"
    found = known_last(observation)
    if isinstance(found, str):
        return found
    links = _links(observation, found.place, places[0])
    return links if isinstance(links, str) else (links, found)
