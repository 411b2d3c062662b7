"""What is minimised: costs of compared gradients, and priors on images. A prior goes here. May import ``defenses.support``; nothing
here knows how gradients are made or how an objective is minimised.
"""
