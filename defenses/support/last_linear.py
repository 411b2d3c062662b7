"""Finding the linear layer that a model ends in."""

from __future__ import annotations

import copy
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

#: Of models that are in use: the names and types of their layers, and which of them is the last. Finding it copies the model.
_FOUND: WeakKeyDictionary[nn.Module, tuple[list[tuple[str, type]], str | None]] = WeakKeyDictionary()


def last_linear(module: nn.Module) -> tuple[str, nn.Linear]:
    """The name and the linear layer that makes the model's output.

    The data flow is traced (torch.fx), so the order in which layers were registered does not matter. A model whose forward
    pass cannot be traced is taken to run its layers in the order of their registration. What has no parameters (softmax,
    dropout, flatten) may follow the layer.

    Raises:
        ValueError: the model does not end in a linear layer; the text says in what it ends.
    """
    modules = dict(module.named_modules())
    layers = [(name, type(layer)) for name, layer in modules.items()]
    if module not in _FOUND or _FOUND[module][0] != layers:
        name = _by_data_flow(module)
        if name is None:
            leaves = [n for n, m in modules.items() if next(m.parameters(recurse=False), None) is not None]
            name = leaves[-1] if leaves else None
        _FOUND[module] = layers, name
    name = _FOUND[module][1]
    found = modules[name] if name is not None else module
    if name is None or not isinstance(found, nn.Linear):
        raise ValueError(f"the model must end in a linear layer, but {type(module).__name__} ends in {type(found).__name__}")
    return name, found


def replace(module: nn.Module, name: str, replacement: nn.Module) -> nn.Module:
    """Put a module in the place of the submodule of that name; for the empty name it is the replacement itself."""
    if not name:
        return replacement
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, replacement)
    return module


def _by_data_flow(module: nn.Module) -> str | None:
    """Name of the layer with parameters that is nearest to the output, or None where the trace does not tell."""
    if not list(module.children()):
        return "" if next(module.parameters(), None) is not None else None
    try:
        # Tracing runs the forward pass on placeholders, which modules may keep in their attributes: trace a copy.
        graph = fx.symbolic_trace(copy.deepcopy(module)).graph
    except Exception:  # a forward pass can fail under tracing in any way: control flow on values, foreign code
        return None
    modules = dict(module.named_modules())
    nodes = [node for node in graph.nodes if node.op == "output"]
    seen = set(nodes)
    while nodes:
        node = nodes.pop(0)
        if node.op == "get_attr":
            # A constant that tracing made is in the copy alone.
            parent, _, name = str(node.target).rpartition(".")
            if isinstance(getattr(module.get_submodule(parent), name, None), torch.Tensor):
                return None
        if node.op == "call_module" and next(modules[str(node.target)].parameters(), None) is not None:
            return str(node.target)
        nodes += [before for before in node.all_input_nodes if before not in seen]
        seen.update(node.all_input_nodes)
    return None
