"""Convolutions of an exported network with what follows them as one of PyTorch's own oneDNN operators.

``torch.compile`` calls the same operators on a CPU. In the file they take no compiler, here or where it runs.
"""

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

_ATEN = torch.ops.aten
_UNUSED = [0.0]  # numbers that other functions than ReLU take; torch.export writes no empty list of numbers


def fuse_convolutions(program: ExportedProgram) -> None:
    """Join convolution, sum and ReLU wherever nothing else reads what is between, in place.

    Args:
        program: Of plain layers. Nothing happens where this PyTorch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        return
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is _ATEN.conv2d.default:
            _fuse(graph, node)
    graph.lint()
    program.graph_module.recompile()


def _fuse(graph: Graph, conv: Node) -> None:
    given = [*conv.args, *(None, [1, 1], [0, 0], [1, 1], 1)[len(conv.args) - 2 :]]
    image, kernel, bias, stride, padding, dilation, groups = given
    if kernel.op != "placeholder" or len(kernel.users) > 1:
        return  # a kernel that is computed, or that several layers read, cannot be laid out once and for one
    how, joined = (padding, stride, dilation, groups), [conv]
    other = _other_summand(conv)
    if other is not None:
        joined.append(next(iter(conv.users)))
    then = _only_user(joined[-1])
    relu = then is not None and then.target in (_ATEN.relu.default, _ATEN.relu_.default)
    joined += [then] * relu
    last = joined[-1]
    operators = torch.ops.mkldnn._convolution_pointwise
    with graph.inserting_before(last):
        if other is None:
            rest = ("relu" if relu else "none", _UNUSED, "")
            new = graph.call_function(operators.default, (image, kernel, bias, *how, *rest))
        else:
            rest = ("add", 1.0, "relu" if relu else None, _UNUSED, None)
            new = graph.call_function(operators.binary, (image, other, kernel, bias, *how, *rest))
    new.meta = last.meta.copy()
    last.replace_all_uses_with(new)
    for node in reversed(joined):
        graph.erase_node(node)


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _other_summand(conv: Node) -> Node | None:
    """What a convolution's result is added to, if it has the same shape and the sum is all that is done with it."""
    total = _only_user(conv)
    if total is None or total.target not in (_ATEN.add.Tensor, _ATEN.add_.Tensor) or total.kwargs:
        return None
    others = [term for term in total.args if term is not conv]
    same = len(others) == 1 and isinstance(others[0], Node) and len(total.args) == 2
    return others[0] if same and others[0].meta["val"].shape == conv.meta["val"].shape else None
