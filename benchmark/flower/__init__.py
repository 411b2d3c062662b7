"""Leakboard in a federation run by Flower: ``mod`` protects what a client sends, ``recording`` writes what the server receives as
observations that ``leakboard identify`` and ``leakboard attack`` read, ``fed_sgd`` is the strategy for clients that send gradients.

These modules import flwr, and nothing else imports them; they are no part of ``defenses``, which imports torch and opacus only.
What a client imports, ``mod``, needs none of the attacks.
"""

from benchmark.errors import InputError

try:
    import flwr as _  # noqa: F401
except ModuleNotFoundError as error:
    raise InputError('benchmark.flower needs Flower; install it with: pip install "leakboard[flower]"') from error
