"""Inferring the labels behind a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.reading.mixtures import read_targets
from defenses.stochastic import sampling
from defenses.support.last_linear import last_linear

#: Images of noise whose mean probabilities stand for those of the victims' images.
_DUMMIES = 64
#: Targets of images that were read exactly differ from those of a class by less than this.
_OF_A_CLASS = 0.1


def label_obstacle(observation: Observation) -> str | None:
    """Why labels can be neither read nor inferred from the observation, or None when they can."""
    if observation.labels is not None:
        return None
    try:
        last_linear(observation.module)
    except ValueError as error:
        return f"labels cannot be inferred: {error}"
    return None


def known_or_inferred_labels(observation: Observation) -> Tensor:
    """The labels [N, B] of the observation, inferred where they are not given: by the iDLG rule from the gradient of one image, by
    :func:`batch_labels` from that of more, in ascending order.

    Raises:
        ValueError: they cannot be inferred.
    """
    if observation.labels is not None:
        return observation.labels
    obstacle = label_obstacle(observation)
    if obstacle is not None:
        raise ValueError(obstacle)
    return idlg_labels(observation) if observation.batch_size == 1 else batch_labels(observation)


def as_classes(labels: Tensor) -> Tensor:
    """Labels [N, B], of probabilities [N, B, classes] the likeliest."""
    return labels if labels.dim() == 2 else labels.argmax(-1)


def idlg_labels(observation: Observation) -> Tensor:
    """Labels [N, 1] of gradients of one image each (Zhao et al., 2020, section 3).

    The gradient of the cross-entropy with respect to the logits is softmax - onehot: negative for the true class alone. It
    is the gradient of the last layer's bias; without a bias, the rows of the weight's gradient are it times the features,
    which are taken to be non-negative, as after ReLU or sigmoid.
    """
    return _by_class(observation).argmin(-1, keepdim=True)


def batch_labels(observation: Observation) -> Tensor:
    """Labels [N, B] of gradients of B images each, with how often each class comes up (LLG*, Wainakh et al., 2022; with a bias,
    its gradient instead of the sums of rows).

    The gradient of the last bias is the mean of softmax - onehot over the images, so class c comes up B (p_c - b_c) times, where
    p_c is the mean probability of c. It is estimated on images of noise, which is close while a model is untrained. Without a bias
    the sums of the weight's rows take its place, divided by the mean sum of the features, from the same images. Counts are rounded
    to sum to B: class by class, the one with the largest rest.
    """
    batch = observation.batch_size
    probabilities, features = _on_noise(observation)
    gradient = _by_class(observation)
    if last_linear(observation.module)[1].bias is None:
        gradient = gradient / features
    counts = batch * (probabilities - gradient)
    labels = []
    for _ in range(batch):
        label = counts.argmax(1)
        counts[torch.arange(len(counts), device=counts.device), label] -= 1
        labels.append(label)
    return torch.stack(labels, 1).sort(1).values


def labels_of_read(observation: Observation, images: Tensor, labels: Tensor) -> Tensor:
    """The labels [N, B] of images [N, B, C, H, W] that were read from the gradient: what the gradient of the last layer tells of
    each. Where the targets that it tells are not those of classes, as of images that are not right, ``labels`` in their order.

    Args:
        observation: of one round.
        images: normalised.
        labels: [N, B], as known or inferred.
    """
    try:
        _, linear = last_linear(observation.module)
    except ValueError:
        return labels
    if observation.stochastic or observation.batch_size > linear.in_features:
        return labels
    targets = read_targets(observation, images)
    classes = targets.argmax(-1)
    off = (targets - torch.nn.functional.one_hot(classes, targets.shape[-1])).abs().flatten(1).amax(1)
    return torch.where((off < _OF_A_CLASS)[:, None], classes, labels)


def _by_class(observation: Observation) -> Tensor:
    """What the last layer's gradient says of each class, [N, classes]: its bias', or the sums of its weight's rows."""
    name, linear = last_linear(observation.module)
    prefix = f"{name}." if name else ""
    if linear.bias is not None:
        return observation.shared[f"{prefix}bias"]
    return observation.shared[f"{prefix}weight"].sum(-1)


def _on_noise(observation: Observation) -> tuple[Tensor, Tensor]:
    """Of images of noise: the mean probability of each class, and the mean sum of what enters the last layer."""
    generator = torch.Generator("cpu").manual_seed(0)
    images = torch.randn((_DUMMIES, *observation.image_shape), generator=generator, device="cpu").to(observation.mean)
    noise = [torch.randn((_DUMMIES, *shape), generator=generator, device="cpu").to(images) for shape in observation.sample_shapes]
    entered: list[Tensor] = []
    handle = last_linear(observation.module)[1].register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    try:
        with torch.no_grad(), sampling(list(observation.stochastic.values()), observation.samples_of(noise)):
            logits = observation.module(images)
    finally:
        handle.remove()
    return logits.softmax(-1).mean(0), entered[0].sum(-1).mean()
