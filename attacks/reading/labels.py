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
    """Labels [N, B] of gradients of B images each, with how often each class comes up.

    The gradient of the last bias is the mean of softmax - onehot over the images, so class c comes up B (p_c - b_c) times, where
    p_c is the mean probability of c. It is estimated twice: on images of noise (LLG*, Wainakh et al., 2022), which is close while
    a model is untrained, and from the gradient itself (iLRG, see :func:`_counts_by_embeddings`). Without a bias the first is left
    alone, and the sums of the weight's rows take the place of the bias' gradient, divided by the mean sum of the features, from the
    same images. Counts are rounded to sum to B: class by class, the one with the largest rest.
    """
    batch = observation.batch_size
    probabilities, features = _on_noise(observation)
    gradient = _by_class(observation)
    if last_linear(observation.module)[1].bias is None:
        counts = batch * (probabilities - gradient / features)
    else:
        counts = _counts_by_embeddings(observation, batch * (probabilities - gradient))
    labels = []
    for _ in range(batch):
        label = counts.argmax(1)
        counts[torch.arange(len(counts), device=counts.device), label] -= 1
        labels.append(label)
    return torch.stack(labels, 1).sort(1).values


def _counts_by_embeddings(observation: Observation, prior: Tensor) -> Tensor:
    """How often each class comes up [N, classes], not yet whole (iLRG, Ma et al., ICLR 2023, section 3), where counts by other
    means [N, classes] are a ``prior``.

    The gradient of the weight's row j is nearly that of the bias, b_j, times the embedding (what enters the last layer) of the
    images of class j. The quotient, run through the last layer, gives their mean probabilities P_j, so that the counts k solve
    sum_j k_j P_jc - k_c = B b_c for each c, and sum to B: by least squares.

    As published that fails where a class comes up about as often as the model expects, so that b_j is next to nothing, as some do
    in every batch of several images a class. So two terms are added:

    - embeddings are drawn to the mean of all, which is what the rows of positive b_j sum to: by a ridge of p_j / 2, since what b_j
      leaves unexplained of a row is the scatter of embeddings times about p_j;
    - counts are drawn to the prior, with a weight of B / classes: how many images an embedding is the mean of, whose mean
      probabilities are other than those of the mean.

    CIFAR-10, labels right of 64 gradients (of 64 images 32, on the MLP 16), by the prior alone, by iLRG as published, by both. MLP
    after 2 epochs: batches of 2 0.95, 0.96, 0.98; of 8 0.82, 0.71, 0.87; of 64 0.85, 0.61, 0.86. LeNet with ReLU after 10: of 2
    0.69, 0.94, 0.97; of 8 0.71, 0.58, 0.78; of 64 0.77, 0.49, 0.79. Untrained all are at least 0.99, but for iLRG on the MLP, of
    64 0.97. The terms were chosen on these; of two other seeds, after 2 epochs, batches of 8 come to 0.95 instead of 0.87 (LeNet)
    and 0.90 instead of 0.84 (MLP), and under pruning they change by between -0.04 and 0.01.
    """
    name, linear = last_linear(observation.module)
    prefix = f"{name}." if name else ""
    weight, bias = (observation.shared[f"{prefix}{kind}"].to(linear.weight.dtype) for kind in ("weight", "bias"))
    positive, least = (bias > 0).to(bias), torch.finfo(bias.dtype).eps ** 2
    mean = torch.einsum("nc,ncf->nf", positive, weight) / (positive * bias).sum(1, keepdim=True).clamp(min=least)
    with torch.no_grad():
        ridge = (linear(mean).softmax(-1) / 2).square().clamp(min=least)[..., None]
        rows = (bias[..., None] * weight + ridge * mean[:, None]) / (bias[..., None].square() + ridge)
        by_class = linear(rows).softmax(-1).double()
    batch, classes = observation.batch_size, bias.shape[1]
    one, drawn = torch.eye(classes, dtype=by_class.dtype, device=by_class.device), batch / classes
    system = torch.cat([by_class.mT - one, torch.ones_like(by_class[:, :1])], 1)
    values = torch.cat([batch * bias.double(), torch.full_like(by_class[:, :1, 0], batch)], 1)[..., None]
    # Of a model that diverged the probabilities are no numbers; that is to be found elsewhere than here.
    counts, _ = torch.linalg.solve_ex(system.mT @ system + drawn * one, system.mT @ values + drawn * prior.double()[..., None])
    return counts[..., 0]


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
