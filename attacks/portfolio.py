"""Which attacks a portfolio runs, with which settings: fixed, so that no result depends on tuning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attacks.base import Attack

#: Raised with every change of an attack, a setting, or the scores of reconstructions or candidates, since results of different
#: portfolios are not comparable.
VERSION = 5

#: Iterations and restarts of each attack by budget.
BUDGETS = {"fast": (300, 1), "standard": (1000, 1), "thorough": (3000, 2)}

#: Settings of the attacks that are run with several: a weak prior for untrained models and clean gradients, a strong one for
#: trained models and noise; layers that are read to the image for untrained models, and for trained ones to the first or second,
#: under a strong prior: the first also for ReLUs, whose outputs of zero tell little of it, the second for images larger than what
#: the gradients tell; samples that are read for single images, compared as a whole for untrained models, and searched for
#: elsewhere; the likelihood from noise for untrained models, and from features for trained ones, for ReLUs under the strongest
#: prior. Other attacks are run once, with their defaults. Which weight is best depends on the model: see ``docs/attacks.md``.
SETTINGS: dict[str, list[dict[str, object]]] = {
    "inverting-gradients": [{"total_variation": weight} for weight in (1e-7, 1e-5, 1e-3, 1e-2)],
    "feature-matching": [{"total_variation": weight} for weight in (1e-3, 3e-2, 0.1)],
    "recursive": [{"matched": 0}, {"matched": 2}, {"matched": 2, "total_variation": 0.3}, {"matched": 1, "total_variation": 0.3}],
    "joint-sample": [{}, {"samples": "read", "per_layer": False, "prior": 0.0, "total_variation": 1e-6},
                     {"samples": "read", "prior": 0.05, "total_variation": 0.02}],
    "likelihood": [{}, {"begin": "features", "total_variation": 0.3},
                   {"begin": "features", "begin_total_variation": 0.3, "total_variation": 10.0}],
}


def settings(classes: Iterable[type[Attack]]) -> list[Attack]:
    """The attacks of all classes, each with the settings of a portfolio, and otherwise its defaults, but for those that run
    others."""
    return [cls(**chosen) for cls in classes if not cls.of_others for chosen in SETTINGS.get(cls.name, [{}])]


def portfolio(classes: Iterable[type[Attack]], budget: str) -> list[Attack]:
    """The attacks of all classes, with at least the budget's restarts, and its iterations.

    Raises:
        KeyError: there is no such budget.
    """
    iterations, restarts = BUDGETS[budget]
    return [with_effort(attack, iterations, restarts) for attack in settings(classes)]


def with_effort(attack: Attack, iterations: int, restarts: int) -> Attack:
    """The attack with so many iterations and at least so many restarts, where it has such parameters."""
    own = attack.parameters()
    effort = {"iterations": iterations, "restarts": max(restarts, own.get("restarts", 1))}
    return replace(attack, **{name: value for name, value in effort.items() if name in own})
