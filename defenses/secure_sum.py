"""The sum over many clients in the place of what each of them shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.base import Defense
from defenses.support import checks


@dataclass(frozen=True)
class SecureSum(Defense):
    """A server learns the sum of what some clients share, as a mean, and nothing else (Bonawitz et al., CCS 2017).

    It is the ideal functionality of secure aggregation; there is no cryptography here. Gradients are left as they are, so that
    noise comes from a defense beside it: under ``noise(std=0.01)+secure-sum(clients=64)`` each client adds a share, and the sum of
    what 64 clients share carries the noise that a gradient of one carries without the secure sum, their mean a 64th of it. DP-SGD
    under a secure sum is DP-SGD over the images of all its clients, with the same privacy budget; where clients take several
    local steps each adds all of the noise. Shares of Laplacian noise are Laplacian, and their sum is nearly Gaussian.

    Behind what is seen are ``clients`` times as many images, the same number of each client. Where more clients share in a round
    they are taken for several sums of so many, or more, clients, with at least so much noise each.

    Args:
        clients: in a sum, >= 2.
    """

    name: ClassVar[str] = "secure-sum"
    summary: ClassVar[str] = "the server sees the sum over many clients alone (secure aggregation, as an ideal functionality)"
    paper: ClassVar[str] = "Bonawitz et al., CCS 2017"

    clients: int = 16

    def __post_init__(self) -> None:
        checks.whole("clients", self.clients, at_least=1)
        if self.clients == 1:
            raise ValueError("a secure sum of one client hides nothing: clients must be >= 2, got 1")

    @property
    def summed(self) -> int:
        return self.clients

