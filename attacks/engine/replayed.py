"""A matching step as a plain list of operations, replayed without autograd, hooks and contexts: the same kernels, so the same
result bit for bit, in half the time where a victim is alone and its tensors are small.
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

log = logging.getLogger("leakboard")

Step = Callable[[Tensor, list[Tensor]], tuple[Tensor, Tensor]]

#: Tracing takes as long as some 400 to 600 iterations gain (measured on LeNet and PRECODE), since both grow with the operations.
_ITERATIONS_WORTH_TRACING = 1000
#: Of more slots the operations take longer than the calls of them.
_MOST_SLOTS = 8

_aten = torch.ops.aten


def worth_replaying(device: torch.device, slots: int, iterations: int) -> bool:
    """Whether the steps of so many iterations are to be replayed; nothing but the time depends on it."""
    return device.type == "cpu" and slots <= _MOST_SLOTS and iterations >= _ITERATIONS_WORTH_TRACING


def replayed_or_plain(step: Step, images: Tensor, samples: list[Tensor]) -> Step:
    """The step replayed for the shapes of some images and samples; the step as it is where the results are not equal bit for bit.

    What is loaded later into tensors that the step holds counts, as they stay where they are.

    Args:
        step: what to replay; it may not depend on values but through its operations.
        images, samples: with which it is traced.
    """
    started = time.perf_counter()
    try:
        traced = make_fx(step)(images, samples)
        _simplify(traced)

        def replayed(images: Tensor, samples: list[Tensor]) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                derivative, objective = traced.forward(images, samples)
            return derivative, objective

        if not all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
                   for a, b in zip(step(images, samples), replayed(images, samples), strict=True)):
            raise ValueError("its result differs from that of the step as it is")
    except Exception as error:  # whatever tracing may raise, the attack goes on without it
        lines = str(error).splitlines() or [type(error).__name__]
        log.info("the matching step is not replayed: %s", lines[0])
        return step
    log.info("the matching step was traced in %.1f s", time.perf_counter() - started)
    return replayed


def _simplify(traced: fx.GraphModule) -> None:
    """Leave out what does nothing or was done before, and call what is left in the shortest way."""
    graph = traced.graph
    changing = _changing(graph)
    known: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            key: Any = node.target
        elif node.op == "call_function" and _is_pure(node) and not changing & {node, *node.all_input_nodes}:
            if _does_nothing(node):
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
                continue
            key = _key((node.target, node.args, node.kwargs))
        else:
            continue
        if (before := known.setdefault(key, node)) is not node:
            node.replace_all_uses_with(before)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = _binding(node.target)
    traced.recompile()


def _changing(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose memory is written into after they were computed, or is shared with such a node."""
    root: dict[fx.Node, fx.Node] = {}

    def find(node: fx.Node) -> fx.Node:
        while root.get(node, node) is not node:
            node = root[node]
        return node

    written = []
    for node in graph.nodes:
        if node.target is operator.getitem:
            root[node] = find(node.args[0])
        elif isinstance(node.target, torch._ops.OpOverload):
            schema = node.target._schema
            for argument, value in zip(schema.arguments, node.args, strict=False):
                if argument.alias_info is not None and isinstance(value, fx.Node):
                    root[find(node)] = find(value)
                    written += [value] * argument.alias_info.is_write
    roots = {find(node) for node in written}
    return {node for node in graph.nodes if find(node) in roots}


def _is_pure(node: fx.Node) -> bool:
    """Whether the same arguments always give the same, and nothing else happens."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return target is operator.getitem
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def _does_nothing(node: fx.Node) -> bool:
    """Whether a node is its own argument."""
    if node.target in (_aten.alias.default, _aten.detach.default):
        return True
    if node.target not in (_aten.view.default, _aten._unsafe_view.default, _aten.expand.default):
        return False
    before, after = (n.meta.get("val") for n in (node.args[0], node) if isinstance(n, fx.Node))
    return (isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == after.shape
            and before.stride() == after.stride())


def _key(part: Any) -> Any:
    """What two nodes have in common that compute the same; numbers of different types are different."""
    if isinstance(part, (tuple, list)):
        return (type(part).__name__, *map(_key, part))
    if isinstance(part, dict):
        return tuple((name, _key(value)) for name, value in part.items())
    return (type(part), part) if isinstance(part, (bool, int, float)) else part


def _binding(target: Any) -> Any:
    """The function of torch that an operation is: Python calls it in a third of the time of the operation itself."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return target
    if target is _aten._unsafe_view.default:
        return torch.Tensor.view
    name = target._schema.name.removeprefix("aten::")
    function = getattr(torch._C._VariableFunctions, name, None)
    return function or getattr(torch._C.TensorBase, name, target)
