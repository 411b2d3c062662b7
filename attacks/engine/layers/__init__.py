"""How the gradients of each kind of layer are compared without being formed, one file a kind, and the convolutions that this takes.
May import the kernels, the slots and ``attacks.objective``.
"""
