"""What a defense is: the hooks that an author may override."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from defenses.choices import Choice
from defenses.client import ONE_GRADIENT, LocalSteps
from defenses.mixing import Mixing
from defenses.private import Private
from defenses.release import Release
from defenses.stages import Unknown
from defenses.step import Batch, Facts, Gradients, Plan, State, Step
from defenses.support.registry import Named, SpecificationError


class Account(Protocol):
    """What a training has spent of its privacy budget."""

    delta: float  #: that epsilon is reported at by default

    def step(self) -> None:
        """Note that one gradient was released by the training: of many clients the one that released most counts. An attribute
        ``counts`` may say what is noted instead of its ``steps``: its ``updates``, or the ``rounds``, whoever takes part."""

    def epsilon(self, delta: float) -> float:
        """Epsilon at a delta, of all that was noted."""


#: Of hooks that were another in earlier versions: the argument by which these are known (None: any), and what to write now.
_OUTDATED = {
    "transform_batch": ("generator", "transform_batch(x, y, generator) is now transform_batch(batch, step), with batch.images, "
                        "batch.targets and step.generator"),
    "transform_gradients": ("generator", "transform_gradients(gradients, generator) is now transform_gradients(gradients, step), "
                            "with step.generator"),
    "make_private": (None, "make_private is no hook any more; override sample_batches, batch_gradient or account, which "
                     "compositions ask for too"),
}


@dataclass(frozen=True)
class Defense(Named):
    """A protection that a client applies before its gradient leaves.

    Override only the hooks that the defense needs; each has a harmless default. Instances are immutable and cheap; what a client
    keeps between steps is in ``Step.state``, and the state of a training lives in :class:`defenses.private.Private`.
    """

    #: Where a client that takes several local steps applies ``transform_gradients``: to the ``update`` that leaves it, or to the
    #: gradient of each ``step``, as what reads the batch has to. ``gradient``: to neither, so that it allows one step alone.
    acts: ClassVar[str] = "update"
    #: Whether ``release`` tells of the update of several local steps (``Facts.local_steps``) also where it acts in each of them.
    tells_of_updates: ClassVar[bool] = False
    #: Whether the regularizer reads parameters themselves, and not only what the layers compute of each sample. Attacks match the
    #: latter without forming the gradients of large layers.
    regularizer_reads_parameters: ClassVar[bool] = True

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for hook, (outdated, now) in _OUTDATED.items():
            own = vars(cls).get(hook)
            if own is not None and (outdated is None or outdated in inspect.signature(own).parameters):
                raise SpecificationError(f"{cls.__name__}.{hook} is written for an earlier version: {now}")

    @property
    def parts(self) -> tuple[Defense, ...]:
        """The defenses that it consists of: itself, or the members of a composition."""
        return (self,)

    @property
    def guarantees(self) -> bool:
        """Whether a training under the defense spends a privacy budget that is accounted for."""
        return type(self).account is not Defense.account

    @property
    def acts_in_steps(self) -> bool:
        """Whether it changes what a client does in each of several local steps, and not the update alone that leaves it."""
        own = type(self)
        return own.transform_batch is not Defense.transform_batch or own.batch_gradient is not Defense.batch_gradient or (
            self.acts != "update" and own.transform_gradients is not Defense.transform_gradients)

    @property
    def plain(self) -> bool:
        """Whether the client shares its plain gradient: the defense is none, that others are compared with."""
        return False

    @property
    def summed(self) -> int:
        """Over how many clients the sum is that a server sees at the least; 1 where it sees what each shares."""
        return 1

    @property
    def samples(self) -> bool:
        """Whether the defense draws the batches of a training itself, so that they are of any size."""
        return type(self).sample_batches is not Defense.sample_batches

    @property
    def regularized(self) -> bool:
        """Whether the defense adds to the client's loss."""
        return type(self).regularizer is not Defense.regularizer

    # What a client computes.

    def extend_model(self, module: nn.Module) -> nn.Module:
        """Return the model that is trained and shared; it may be the given module, changed in place."""
        return module

    def regularizer(self, module: nn.Module) -> Tensor | float:
        """A term added to the loss of each sample: shape [B], or one number for all. Called right after the forward pass."""
        return 0.0

    def initial_state(self, module: nn.Module) -> State | None:
        """What a client keeps between steps, at the beginning: tensors by name, saved with a checkpoint. None: nothing."""
        return None

    def transform_batch(self, batch: Batch, step: Step) -> Batch:
        """Change images and targets before the forward pass; targets may become probabilities [B, classes]."""
        return batch

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        """Change the gradient, parameter name to tensor, before it leaves the client. Must not write into its input."""
        return gradients

    def shared_among(self, clients: int, local_steps: int = 1) -> Defense:
        """The defense as one of some clients applies it whose sum alone is seen: its noise is a share, and the shares add up to the
        noise of one. What adds none, or has to add all of it in each of several local steps, is as it was."""
        return self

    # What a server that knows the defense can conclude.

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        """What the shared gradient tells of the clean one, by parameter name.

        Args:
            shared: by parameter name what this defense returned, [N, *parameter.shape] for N victims; None where it is not seen,
                since something else was done to it afterwards.
            facts: what everybody knows.

        Returns:
            A release for every name in ``shared``. A defense that changes batches or gradients and does not say is unknown.
        """
        changing = ("transform_batch", "transform_gradients", "batch_gradient")
        silent = any(getattr(type(self), hook) is not getattr(Defense, hook) for hook in changing)
        return dict.fromkeys(shared, Release((Unknown(),)) if silent else Release())

    def choices(self, facts: Facts) -> Sequence[Choice]:
        """The outcomes of what is drawn for each image independently of all others, where these are few. They are all that
        ``transform_batch`` does, and ``release`` tells of the gradient of the images that came of it. Nothing where none are said.

        Args:
            facts: what everybody knows.
        """
        return ()

    def mixing(self, facts: Facts) -> Mixing | None:
        """Which images the gradient is of, where ``transform_batch`` mixes them, flips signs or adds others; None where they are
        the client's, or where the defense does not say."""
        return None

    # What only a defense that replaces the training needs; a composition asks its members for each.

    def sample_batches(self, data_loader: Any) -> Any:
        """The loader that the training iterates over, made from the given one."""
        return data_loader

    def planned(self, plan: Plan) -> Defense:
        """The defense with all that follows from the plan of the training (a noise multiplier from a target epsilon) as parameters.
        It is the one in force, which attackers know."""
        return self

    def batch_gradient(self, batch: Batch, step: Step) -> tuple[Gradients, Tensor] | None:
        """The gradient of a batch, by parameter name, and the mean loss, detached; None for the plain gradient of the mean loss."""
        return None

    def account(self, plan: Plan) -> Account | None:
        """Where the training notes what it spends, or None where there is no guarantee."""
        return None

    def make_private(self, *, module: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Any, epochs: int | None = None,
                     generator: torch.Generator | None = None, local: LocalSteps = ONE_GRADIENT) -> Private:
        """Protect a training; the shape is that of ``opacus.PrivacyEngine.make_private``. Not a hook.

        Args:
            module: the model. Defenses that extend it do so in place.
            optimizer: an optimizer over the parameters of ``module``; parameters that the defense adds are put under its
                first group, those that it removes are taken out.
            data_loader: iterates over batches (images, labels); where the defense sums over clients these are joined and cut so
                that each client has as many.
            epochs: length of the planned training; only a defense that plans a privacy budget needs it.
            generator: source of the defense's randomness, on the device of the module's parameters. By default one seeded
                from torch's global generator. Randomness inside the forward pass (dropout, PRECODE) follows torch's
                global generator, as everywhere in PyTorch.
            local: how clients come to what they share; by default it is one gradient.

        Returns:
            The private training: ``module``, ``optimizer``, ``data_loader`` and ``backward``.

        Raises:
            ValueError: the optimizer does not hold the parameters of the module, the defense lacks something of the plan, or it
                cannot act where clients take several local steps.
            TypeError: the defense samples its own batches, and cannot do so from this loader.
        """
        return Private(self, module, optimizer, data_loader, epochs=epochs, generator=generator, local=local)

