"""Which norm adds up the pair (hidden states, residual) that vLLM's decoder layers hand on, read from their source.

Names do not tell: Molmo's `input_layernorm` comes behind the attention, and Command R's layers hand on the finished
stream beside an outdated residual. So the code is read: a layer that begins with a norm and gives it the pair receives
the stream of the layer before as these two parts, and one of vLLM's norms returns their sum.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_RESIDUAL = "residual"


def is_missing(module: nn.Module | None) -> bool:
    """True for the placeholder of a module that another pipeline rank holds."""
    return module is None or any(kind.__name__ == "PPMissingLayer" for kind in type(module).__mro__)


def hands_on_pair(layer: nn.Module) -> bool:
    """True when the layer returns, or may return, more than the hidden states. One that takes a residual as others do
    and returns None in its place (Gemma 4, MiniCPM) does not."""
    returns = [node.value for node in ast.walk(_forward(layer)) if isinstance(node, ast.Return)]
    tuples = [value for value in returns if isinstance(value, ast.Tuple)]
    if tuples and len(tuples) == len(returns):
        return not all(_holds_one(value) for value in tuples)
    return bool(tuples) or _takes_residual(layer.forward)


def norm_at_start(layer: nn.Module) -> nn.Module | None:
    """The norm that a decoder layer begins with, if it adds the pair up; else None."""
    calls = list(_child_calls(layer))
    if not calls:
        return None
    first = calls[0][0]
    return _adding(layer, [name for name, pair in calls if pair and name == first])


def norm_at_end(decoder: nn.Module) -> nn.Module | None:
    """The norm behind a decoder's last layer, if it is here and adds the pair up; else None."""
    return _adding(decoder, [name for name, pair in reversed(list(_child_calls(decoder))) if pair])


def _adding(module: nn.Module, names: list[str]) -> nn.Module | None:
    if not names:
        return None
    norm = getattr(module, names[0])
    # vLLM's norms dispatch from forward(*args) to forward_native(x, residual).
    return norm if _takes_residual(getattr(norm, "forward_native", norm.forward)) else None


def _takes_residual(function: Callable[..., Any]) -> bool:
    return _RESIDUAL in inspect.signature(function).parameters


def _child_calls(module: nn.Module) -> Iterator[tuple[str, bool]]:
    """Submodules that `forward` calls as ``self.name(...)``, in the order of the source, and whether each call is given
    a residual."""
    calls = [node for node in ast.walk(_forward(module)) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        target = call.func
        if (
            isinstance(target, ast.Attribute)
            and isinstance(target.value, ast.Name)
            and target.value.id == "self"
            and isinstance(getattr(module, target.attr, None), nn.Module)
        ):
            yield target.attr, _is_given_residual(call)


def _forward(module: nn.Module) -> ast.AST:
    """The source of `forward`; nothing when there is none to read. One that only hands its arguments to the class
    above, as Mistral's does, stands for that class's."""
    tree: ast.AST = ast.Module(body=[], type_ignores=[])
    for kind in type(module).__mro__:
        if "forward" in vars(kind):
            tree = _source(vars(kind)["forward"])
            if not _hands_up(tree):
                break
    return tree


def _source(function: Callable[..., Any]) -> ast.AST:
    try:
        source = inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):
        return ast.Module(body=[], type_ignores=[])
    return ast.parse(textwrap.dedent(source))


def _hands_up(tree: ast.AST) -> bool:
    """True for a function that is ``return super().forward(...)`` and nothing else, besides a docstring."""
    functions = [node for node in ast.iter_child_nodes(tree) if isinstance(node, ast.FunctionDef)]
    if len(functions) != 1:
        return False
    rest = [
        node for node in functions[0].body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    if len(rest) != 1 or not isinstance(rest[0], ast.Return):
        return False
    call = rest[0].value
    return isinstance(call, ast.Call) and ast.unparse(call.func) == "super().forward"


def _holds_one(value: ast.Tuple) -> bool:
    """``(hidden,)`` or ``hidden, None``."""
    return all(isinstance(rest, ast.Constant) and rest.value is None for rest in value.elts[1:])


def _is_given_residual(call: ast.Call) -> bool:
    values = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == _RESIDUAL)]
    return any(isinstance(value, ast.Name) and value.id == _RESIDUAL for value in values)
