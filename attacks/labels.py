"""Inferring the label behind a gradient."""

from __future__ import annotations

from torch import Tensor

from attacks.base import Observation
from defenses.last_linear import last_linear


def label_obstacle(observation: Observation) -> str | None:
    """Why labels can be neither read nor inferred from the observation, or None when they can."""
    if observation.labels is not None or observation.batch_size == 1:
        return None
    return f"labels are inferred for one image per gradient, not for {observation.batch_size}; give the labels"


def known_or_inferred_labels(observation: Observation) -> Tensor:
    """The labels [N, B] of the observation, inferred by the iDLG rule where they are not given.

    Raises:
        ValueError: they cannot be inferred.
    """
    if observation.labels is not None:
        return observation.labels
    obstacle = label_obstacle(observation)
    if obstacle is not None:
        raise ValueError(obstacle)
    return idlg_labels(observation)


def idlg_labels(observation: Observation) -> Tensor:
    """Labels [N, 1] of gradients of one image each (Zhao et al., 2020, section 3).

    The gradient of the cross-entropy with respect to the logits is softmax - onehot: negative for the true class alone. It
    is the gradient of the last layer's bias; without a bias, the rows of the weight's gradient are it times the features,
    which are taken to be non-negative, as after ReLU or sigmoid.
    """
    name, linear = last_linear(observation.module)
    prefix = f"{name}." if name else ""
    if linear.bias is not None:
        scores = observation.gradients[f"{prefix}bias"]
    else:
        scores = observation.gradients[f"{prefix}weight"].sum(-1)
    return scores.argmin(-1, keepdim=True)
