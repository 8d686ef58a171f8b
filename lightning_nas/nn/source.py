"""A network as readable Python source: plain torch, one class for each kind of block, the same names of weights.

Every module with a ``forward`` of its own becomes a class: torch.fx traces what it does with its children, which stay
calls (what a module computes from constants alone is folded; branches on the values of tensors cannot be traced).
Layers of ``torch.nn`` become the calls that make them.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import sys
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from lightning_nas.errors import UsageError

_WIDTH = 110
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class NetworkSource(NamedTuple):
    """A network in words.

    Attributes:
        imports: Further import statements that the classes need, besides ``torch`` and ``torch.nn`` as ``nn``.
        classes: Source of the classes, children before parents.
        constructor: The expression that makes the network with fresh weights.
        weights: What is to be loaded into it, by name: what the forward pass uses and nothing else.
    """

    imports: str
    classes: str
    constructor: str
    weights: dict[str, Tensor]


class _Call(NamedTuple):
    """An expression ``head(parts)`` that can be broken over lines; parts are (prefix, expression)."""

    head: str
    parts: tuple[tuple[str, _Call | str], ...]
    brackets: tuple[str, str] = ("(", ")")


def network_source(network: nn.Module) -> NetworkSource:
    """Write a network down.

    Args:
        network: Any network; it is described as it is in evaluation mode, and not changed.

    Raises:
        UsageError: A part of it cannot be traced, or a layer cannot be made again from its attributes.

    Example:
        >>> network_source(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU())).constructor
        'nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU())'
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        writer = _Writer()
        constructor = _render(writer.expression(network, "", set()), indent=4, used=len("    network = "))
    finally:
        for module, training in modes:
            module.training = training
    return NetworkSource("\n".join(sorted(writer.imports)), writer.source(), constructor, writer.weights)


class _Writer:
    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # body of a class -> its name
        self.imports: set[str] = set()
        self.weights: dict[str, Tensor] = {}

    def source(self) -> str:
        return "\n\n".join(f"class {name}(nn.Module):\n{body}" for body, name in self.names.items())

    def expression(self, module: nn.Module, prefix: str, asked: set[str]) -> _Call:
        """What makes a module; notes its classes and weights on the way.

        Args:
            module: The module.
            prefix: Its place, as in the names of weights.
            asked: Names within it that its parents use past its forward.
        """
        if module._forward_hooks or module._forward_pre_hooks:
            raise UsageError(
                f"cannot write {type(module).__name__} as Python source, for it has forward hooks; remove them, or "
                "choose another --format: program, onnx"
            )
        if _is_container(module):
            children = [
                (name, self.expression(child, f"{prefix}{name}.", _within(name, asked)))
                for name, child in _children(module)
            ]
            if isinstance(module, nn.ModuleList):
                return _Call("nn.ModuleList", tuple(("", child) for _, child in children), ("([", "])"))
            if isinstance(module, nn.ModuleDict):
                return _Call("nn.ModuleDict", tuple((f"{name!r}: ", child) for name, child in children), ("({", "})"))
            if _is_numbered(module):
                return _Call("nn.Sequential", tuple(("", child) for _, child in children))
            self.imports.add("from collections import OrderedDict")
            pairs = tuple(("", _Call("", (("", repr(name)), ("", child)))) for name, child in children)
            return _Call("nn.Sequential", (("", _Call("OrderedDict", pairs, ("([", "])"))),))
        if _is_layer(module):
            self.weights.update({f"{prefix}{name}": value.detach() for name, value in module.state_dict().items()})
            return _layer(module)
        return _Call(self._class(module, prefix, asked), ())

    def _class(self, module: nn.Module, prefix: str, asked: set[str]) -> str:
        graph = _trace(module)
        used = asked | {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
        lines = list(self._attributes(module, prefix, used))
        forward = self._forward(module, graph)
        body = _docstring(module)
        if lines:
            body += "    def __init__(self):\n        super().__init__()\n"
            body += "".join(f"        {line}\n" for line in lines) + "\n"
        body += "".join(f"    {line}\n" for line in forward)
        return self.names.setdefault(body, self._free_name(type(module).__name__))

    def _attributes(self, module: nn.Module, prefix: str, used: set[str]) -> Iterator[str]:
        """Statements that make what the forward pass uses."""
        for name, child in _children(module):
            within = _within(name, used)
            if name in used or within:
                left, right = _assignment(name)
                expression = self.expression(child, f"{prefix}{name}.", within)
                yield left + _render(expression, indent=8, used=8 + len(left + right)) + right
        for name in sorted(target for target in used if "." not in target and target not in dict(_children(module))):
            value: Tensor = getattr(module, name)
            self.weights[f"{prefix}{name}"] = value.detach()
            dtype = "" if value.dtype == torch.float32 else f", dtype={value.dtype}"
            fresh = f"torch.empty({tuple(value.shape)}{dtype})"
            left, right = _assignment(name)
            yield f"{left}nn.Parameter({fresh}{'' if value.is_floating_point() else ', requires_grad=False'}){right}"

    def _forward(self, module: nn.Module, graph: fx.Graph) -> list[str]:
        """The traced forward pass, as one would write it."""
        for node in graph.nodes:
            node.type = None  # annotations may need imports
        code = graph.python_code("self")
        source = re.sub(r";  [\w = ]+ = None$", "", code.src, flags=re.MULTILINE)  # fx frees memory early
        lines = [line for line in source.splitlines() if line.strip()]
        indexed = partial(_indexed, module)
        lines = [re.sub(r'getattr\(self\.([\w.]+), "(\d+)"\)', indexed, line) for line in lines]
        for place, line in enumerate(lines):
            target, equals, value = line.partition(" = ")
            lines[place] = target + equals + value.replace(" = ", "=")
        for name, value in code.globals.items():
            if re.search(rf"\b{name}\b", "\n".join(lines[1:])):
                self.imports.add(_import_of(name, value))
        self.imports.discard("")
        return lines

    def _free_name(self, name: str) -> str:
        taken, number = set(self.names.values()), 2
        candidate = name
        while candidate in taken:
            candidate, number = f"{name}{number}", number + 1
        return candidate


class _Tracer(fx.Tracer):
    """Children are calls, but for those that do nothing in evaluation mode."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_layer(m) or _is_container(m) or not _passes_through(m)


def _trace(module: nn.Module) -> fx.Graph:
    attributes = set(vars(module))
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # whatever user code may raise when it is given symbols
        raise UsageError(
            f"cannot write {type(module).__name__} as Python source, for torch.fx cannot trace it "
            f"({type(error).__name__}: {error}); expected a forward without branches on the values of tensors, or "
            "another --format: program, onnx"
        ) from error
    if set(vars(module)) != attributes:  # fx keeps tensors that forward makes from constants on the module
        for name in set(vars(module)) - attributes:
            delattr(module, name)
        raise UsageError(
            f"cannot write {type(module).__name__} as Python source: its forward makes tensors from constants; "
            "register them as buffers, or choose another --format: program, onnx"
        )
    return graph


def _passes_through(module: nn.Module) -> bool:
    if _children(module) or module._parameters:
        return False
    first, *rest = _trace(module).nodes
    return len(rest) == 1 and rest[0].op == "output" and rest[0].args == (first,)


def _is_container(module: nn.Module) -> bool:
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in _CONTAINERS)


def _is_numbered(module: nn.Module) -> bool:
    """Whether children have the names that a list would give them; a part cut out of one keeps its own."""
    return list(module._modules) == [str(place) for place in range(len(module._modules))]


def _within(name: str, targets: set[str]) -> set[str]:
    return {target.removeprefix(f"{name}.") for target in targets if target.startswith(f"{name}.")}


def _assignment(name: str) -> tuple[str, str]:
    """What stands left and right of an attribute's value; not every name of a module is one of Python's."""
    return (f"self.{name} = ", "") if name.isidentifier() else (f"setattr(self, {name!r}, ", ")")


def _indexed(module: nn.Module, found: re.Match[str]) -> str:
    """``self.blocks[0]``, as one would write what fx says by ``getattr``, where that is the same."""
    path, place = found.groups()
    parent = module.get_submodule(path)
    same = isinstance(parent, nn.Sequential | nn.ModuleList) and _is_container(parent) and _is_numbered(parent)
    return f"self.{path}[{place}]" if same else found[0]


def _is_layer(module: nn.Module) -> bool:
    return getattr(nn, type(module).__name__, None) is type(module) and not isinstance(module, _CONTAINERS)


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _layer(module: nn.Module) -> _Call:
    """The shortest call that makes a layer of ``torch.nn`` with the same settings."""
    for shorten in (True, False):
        try:
            call = _Call(f"nn.{type(module).__name__}", tuple(_arguments(module, shorten)))
            copy = eval(_render(call), {"nn": nn})
        except Exception:  # an attribute that is no argument's value
            continue
        if _settings(copy) == _settings(module):
            return call
    raise UsageError(
        f"cannot write the layer {module} as Python source, for its attributes do not say how it was made; "
        "expected another layer, or another --format: program, onnx"
    )


def _arguments(module: nn.Module, shorten: bool) -> Iterator[tuple[str, str]]:
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name in ("device", "dtype") or not hasattr(module, name):
            continue
        value = getattr(module, name)
        if name in module._parameters:
            value = value is not None  # bias=True is the parameter itself later
        if shorten and isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]
        ast.literal_eval(repr(value))
        if parameter.default is parameter.empty:
            yield "", repr(value)
        elif value != parameter.default:
            yield f"{name}=", repr(value)


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a layer does, and the shapes of its weights."""
    plain = {k: _same(v) for k, v in vars(module).items() if not k.startswith("_") and k != "training"}
    return plain | {name: value.shape for name, value in module.state_dict().items()}


def _same(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _render(expression: _Call | str, indent: int = 0, used: int = 0) -> str:
    """On one line where it fits."""
    if isinstance(expression, str):
        return expression
    flat = ", ".join(prefix + _render(part, 0, -(10**9)) for prefix, part in expression.parts)
    left, right = expression.brackets
    line = f"{expression.head}{left}{flat}{right}"
    if used + len(line) <= _WIDTH:
        return line
    pad = " " * (indent + 4)
    lines = ""
    for prefix, part in expression.parts:
        lines += f"{pad}{prefix}{_render(part, indent + 4, indent + 5 + len(prefix))},\n"
    return f"{expression.head}{left}\n{lines}{' ' * indent}{right}"


def _docstring(module: nn.Module) -> str:
    line = (type(module).__doc__ or "").strip().partition("\n")[0]
    return f'    """{line}"""\n\n' if line and not re.search(r'[\\"]', line) else ""


def _import_of(name: str, value: Any) -> str:
    if value is torch:
        return ""
    if name in ("inf", "nan") and isinstance(value, float) and not math.isfinite(value):
        return f"from math import {name}"
    if name == "device":
        return "from torch import device"
    if isinstance(value, ModuleType) and value.__name__ in sys.stdlib_module_names:
        return f"import {value.__name__}" + ("" if name == value.__name__ else f" as {name}")
    raise UsageError(
        f"cannot write the network as Python source: it calls {name} ({value!r}), which is not part of torch; "
        "choose another --format: program, onnx"
    )
