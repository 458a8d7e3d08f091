"""One-step edits of a correct source: off by one, swapped, dropped, rounded elsewhere.

An edit changes one node of the syntax tree and is named by what stands there before
and after, so that its name survives a move of the line.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from dataclasses import dataclass

_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.RShift: ast.LShift,
    ast.LShift: ast.RShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
# Methods that give a tensor of the same shape: without one, the source still runs.
_DROPPED = (
    *("bfloat16", "clamp", "clamp_max", "contiguous", "clone", "double", "exp"),
    *("float", "int", "long", "masked_fill", "nan_to_num", "softmax", "to"),
)
_DTYPES = {"float32": "bfloat16", "float64": "float32", "bfloat16": "float32"}
_AXES = ("dim", "start_dim", "end_dim")


@dataclass(frozen=True)
class Edit:
    """One change: `number` counts the nodes of `function` in the order of a walk.

    before, after : the innermost statement, as source.
    """

    function: str
    number: int
    choice: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.function}: {self.before} -> {self.after}"


def _constants(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, ast.Constant) or isinstance(node.value, (str, bytes)):
        return
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)
    elif isinstance(node.value, float):
        yield ast.Constant(node.value * (1 + 2.0**-6) or 2.0**-6)


def _operators(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp):
        other = _OPERATORS.get(type(node.op))
        if other is not None:
            yield ast.BinOp(node.left, other(), node.right)
        if not isinstance(node.op, (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr)):
            yield ast.BinOp(node.right, node.op, node.left)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        other_way = _COMPARISONS[type(node.ops[0])]()
        yield ast.Compare(node.left, [other_way, *node.ops[1:]], node.comparators)


def _calls(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Attribute) and node.func.attr in _DROPPED:
        yield node.func.value
    if len(node.args) == 2 and not any(isinstance(a, ast.Starred) for a in node.args):
        yield ast.Call(node.func, node.args[::-1], node.keywords)
    for n, word in enumerate(node.keywords):
        if word.arg is not None and word.arg not in _AXES:
            rest = node.keywords[:n] + node.keywords[n + 1 :]
            yield ast.Call(node.func, node.args, rest)


def _slices(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Slice):
        if node.lower is not None:
            yield ast.Slice(None, node.upper, node.step)
        if node.upper is not None:
            yield ast.Slice(node.lower, None, node.step)
            yield ast.Slice(
                node.lower, ast.BinOp(node.upper, ast.Sub(), ast.Constant(1)), node.step
            )
    if isinstance(node, ast.Tuple) and len(node.elts) == 2:
        yield ast.Tuple(node.elts[::-1], node.ctx)
    if isinstance(node, ast.Attribute) and node.attr in _DTYPES:
        yield ast.Attribute(node.value, _DTYPES[node.attr], node.ctx)


_KINDS: tuple[Callable[[ast.AST], Iterator[ast.AST]], ...] = (
    _constants,
    _operators,
    _calls,
    _slices,
)


def edits_of(tree: ast.Module, functions: Collection[str]) -> list[Edit]:
    """Every edit of the named functions and assignments, in the order of the source."""
    found = []
    for name, owner in _owners(tree, functions):
        for number, node in enumerate(_nodes(owner)):
            for choice, _ in enumerate(_choices(node)):
                edit = Edit(name, number, choice, "", "")
                before, after = _statement(owner, number, edit)
                if before != after:
                    found.append(Edit(name, number, choice, before, after))
    return found


def apply_edits(tree: ast.Module, edits: Collection[Edit]) -> ast.Module:
    """A copy of `tree` with `edits` made, later nodes first."""
    edited = copy.deepcopy(tree)
    owners = dict(_owners(edited, {edit.function for edit in edits}))
    for edit in sorted(edits, key=lambda e: e.number, reverse=True):
        _replace(owners[edit.function], edit)
    return ast.fix_missing_locations(edited)


def _owners(
    tree: ast.Module, functions: Collection[str]
) -> Iterator[tuple[str, ast.AST]]:
    """``swiglu``, ``Plain.expert``, ``_E2M1``: what an edit may change."""
    for node in tree.body:
        for name, owner in ((_name(node), node), *_members(node)):
            if name in functions:
                yield name, owner


def _members(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            yield f"{node.name}.{_name(member)}", member


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return getattr(node, "name", "")


def _nodes(owner: ast.AST) -> list[ast.AST]:
    """The expressions of `owner`, without annotations, decorators and docstrings."""
    parts: list[ast.AST]
    if isinstance(owner, ast.FunctionDef):
        parts = list(owner.body)
    else:
        parts = [owner.value] if getattr(owner, "value", None) else []
    return [node for part in parts for node in ast.walk(part)]


def _choices(node: ast.AST) -> list[ast.AST]:
    return [other for kind in _KINDS for other in kind(node)]


def _statement(owner: ast.AST, number: int, edit: Edit) -> tuple[str, str]:
    """The innermost statement around a node, before and after."""
    edited = copy.deepcopy(owner)
    target = _nodes(edited)[number]
    around = edited
    for node in ast.walk(edited):
        if isinstance(node, ast.stmt) and any(n is target for n in ast.walk(node)):
            around = node
    before = _first_line(around)
    _replace(edited, edit)
    return before, _first_line(around)


def _first_line(node: ast.AST) -> str:
    """A statement, or the head of a compound one."""
    return ast.unparse(ast.fix_missing_locations(node)).split("\n")[0]


def _replace(owner: ast.AST, edit: Edit) -> None:
    """Put the edit's choice in the place of its node."""
    target = _nodes(owner)[edit.number]
    other = _choices(target)[edit.choice]
    for parent in ast.walk(owner):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, other)
                return
            if isinstance(value, list) and any(v is target for v in value):
                value[next(n for n, v in enumerate(value) if v is target)] = other
                return
