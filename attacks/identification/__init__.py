"""Which of many images was it? The ranking of candidate images by the likelihood of what a server observed, without any search.

``identifier`` chooses the way by what the observation tells; ``likelihood`` compares the gradients of single images, ``batches``
those of more, whose other images are noise of known covariance (``whitening``); ``features`` reads what entered a stochastic layer;
``simulation`` runs a client whose defense does not say what it discloses; ``guarantee`` says what no attacker exceeds. May import
the engine, the reading, the objective and the defenses.
"""

from attacks.identification.candidates import Candidates
from attacks.identification.guarantee import presence_mu
from attacks.identification.identifier import Identifier, Method

__all__ = ["Candidates", "Identifier", "Method", "presence_mu"]
