"""Matching by the image under what the client sampled, which is searched for, or read backwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.base import Observation
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.code import Code
from attacks.objective.costs import Cosine
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge
from attacks.reading.layers import replay_obstacle
from attacks.reading.recursion import code_obstacle, read_code
from defenses.support import checks


@dataclass(frozen=True)
class JointSample(MatchingAttack):
    """Optimise the images together with what the stochastic layers sampled at the client, where one layer's gradient does not tell
    it (Scheliga et al., AAAI 2023, for dropout masks; ours for Gaussian samples, and the reading).

    With the client's own samples the matching is as deterministic as without a defense. They begin as a draw of the attacker's own
    and are moved by Adam on their derivative, with the step size of the images; masks of dropout are relaxed to [0, 1]. Added to
    the cosine are the total variation of the images and how improbable the samples are: of dropout how far the share that is kept
    is from what is expected, of a Gaussian 0.5 epsilon^2 as a mean over its entries. The cosines are those of single layers, where
    the authors take the one of all: the layers next to a bottleneck, with the divergence in their gradients, drown the others.

    Of a single image and a model whose layers behind the sampling run one after another the code can also be read, from the last
    layer back (:func:`attacks.reading.recursion.read_code`), and is then replayed: on untrained models to four digits, on trained
    ones with errors of some hundredths. The sample by which an image comes to the code follows the image, and how improbable the
    code is of it counts as that of samples does. An untrained model's image then needs one cosine over all layers and next to no
    prior, a trained one's those of single layers and strong priors (LeNet under CVB, 8 CIFAR-10 test images: untrained, 300
    iterations, ASR 0.62, mean SSIM 0.60; trained, 1,000 iterations, both weights 0.03, 0.62, 0.60).

    Args:
        samples: ``searched`` or ``read``.
        per_layer: whether the cosines are those of single layers, or one over all.
        prior: weight of the improbability of the samples, or of the code that is read, >= 0; the authors take 1e-4 for masks.
        solver: iterations of the linear solver for each layer that is read, >= 1.

    The other arguments are those of :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "joint-sample"
    summary: ClassVar[str] = "cosine matching by the images together with what stochastic layers sampled"
    paper: ClassVar[str] = "Scheliga et al., AAAI 2023"
    threat_model: ClassVar[str] = "B"
    needs: ClassVar[tuple[str, ...]] = ("defense",)

    total_variation: float = 1e-2
    samples: str = "searched"
    per_layer: bool = True
    prior: float = 1e-2
    solver: int = 400

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("samples", self.samples, ("searched", "read"))
        checks.flag("per_layer", self.per_layer)
        checks.number("prior", self.prior, at_least=0)
        checks.whole("solver", self.solver, at_least=1)

    def own_obstacle(self, observation: Observation) -> str | None:
        if observation.defense is None:
            return "a blind attacker does not know that layers are stochastic"
        if not observation.stochastic:
            return "the model has no stochastic layer"
        if observation.mixing is not None:
            return "how images were mixed is what is searched for, and not what was sampled beside"
        if replay_obstacle(observation) is None:
            return "what the layers sampled is read from the gradient, and other attacks replay it"
        unread = code_obstacle(observation) if self.samples == "read" else None
        return super().own_obstacle(observation) if unread is None else unread

    def objective(self, observation: Observation) -> Objective:
        objective = Objective(Cosine(per_layer=self.per_layer), (TotalVariation(self.total_variation),))
        if self.samples == "searched":
            return replace(with_knowledge(objective, observation), sample_prior=self.prior)
        codes = read_code(observation, self.solver)
        improbable = (Code(self.prior, name, code) for name, code in zip(observation.stochastic, codes, strict=True))
        return replace(objective, terms=(*objective.terms, *improbable), codes=codes)
