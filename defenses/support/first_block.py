"""Finding the end of the block that a convolutional model begins with."""

from __future__ import annotations

import copy

from torch import fx, nn
from torch.nn.modules import activation, pooling
from torch.nn.modules.batchnorm import _NormBase

#: What belongs to the block of a convolution; none changes the number of channels.
_FOLLOWING = (nn.GroupNorm, _NormBase)


def first_block(module: nn.Module) -> tuple[str, nn.Conv2d]:
    """The name of the last layer of the first convolution's block, and the convolution.

    To the block belong the norms, activations and poolings that run behind the convolution one after another, as modules; it ends
    where another layer or a function follows, or where ways part. The data flow is traced (torch.fx); of a model whose forward pass
    cannot be traced the block is the first convolution that is registered.

    Raises:
        ValueError: the model has no convolution of images.
    """
    modules = dict(module.named_modules())
    convolutions = [(name, layer) for name, layer in modules.items() if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise ValueError(f"the model must have a convolution of images (Conv2d), but {type(module).__name__} has none")
    try:
        # Tracing runs the forward pass on placeholders, which modules may keep in their attributes: trace a copy.
        nodes = [] if "" in dict(convolutions) else list(fx.symbolic_trace(copy.deepcopy(module)).graph.nodes)
    except Exception:  # a forward pass can fail under tracing in any way: control flow on values, foreign code
        nodes = []
    called = [node.target for node in nodes if node.op == "call_module"]
    node = next((node for node in nodes if node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d)), None)
    if node is None:
        return convolutions[0]
    convolution = modules[node.target]
    while len(node.users) == 1:
        (after,) = node.users
        if after.op != "call_module" or called.count(after.target) > 1 or not _follows(modules[after.target]):
            break
        node = after
    return str(node.target), convolution


def _follows(layer: nn.Module) -> bool:
    return isinstance(layer, _FOLLOWING) or type(layer).__module__ in (activation.__name__, pooling.__name__)
