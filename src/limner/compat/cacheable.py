"""Which packs may be shown from a cache without being imported: those whose sources only define things.

The answer is read off the syntax, and strict: a pack that registers routes, folders, samplers or patches does so with
a call or an assignment at the top of a module, and that is where every such pack is told apart.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from limner.compat.discovery import Pack

_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.Pass)
_HARMLESS = frozenset(
    """
    print AnyType dict list tuple set frozenset range len sorted float int str bool enumerate zip min max getLogger
    TypeVar namedtuple
    """.split()  # noqa: SIM905 - shorter than twenty quoted names
)
_MAPPINGS = frozenset(("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"))


def why_not(pack: Pack) -> str:
    """Why a pack must be imported at every start; "" when its description may be kept."""
    if pack.prestartup is not None:
        return "it has a prestartup script"
    for file in pack.sources():
        if file.suffix != ".py":
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            return f"{file.name} cannot be parsed"
        for statement, reason in _effects(tree):
            return f"{file.name}:{statement.lineno} {reason}"
    return ""


def _effects(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for statement in tree.body:
        yield from _of_statement(statement, defined)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "INPUT_TYPES":
            calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
            if any(not _is_harmless(one, set()) for one in calls):
                yield node, "lists inputs that may change"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "comfy_entrypoint":
            yield node, "is an extension that is asked for its nodes"


def _of_statement(statement: ast.stmt, defined: set[str]) -> Iterator[tuple[ast.stmt, str]]:
    if isinstance(statement, ast.ClassDef):
        if statement.decorator_list or any(one.arg == "metaclass" for one in statement.keywords):
            yield statement, "runs code when a class is made"
        for inner in statement.body:
            if isinstance(inner, ast.Assign | ast.AnnAssign):
                yield from _of_calls(inner, defined)
            elif isinstance(inner, ast.Expr) and not isinstance(inner.value, ast.Constant):
                yield inner, "does something when a class is made"
        return
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.decorator_list:
        yield statement, "hands a function to someone"
    elif isinstance(statement, _DEFINITIONS):
        return
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if any(not _is_own(target) for target in targets):
            yield statement, "changes what is not its own"
        yield from _of_calls(statement, defined)
    elif isinstance(statement, ast.Expr):
        if not isinstance(statement.value, ast.Constant) and not _is_update(statement.value):
            yield statement, "does something when imported"
    elif isinstance(statement, ast.Try):
        for inner in [*statement.body, *statement.orelse, *statement.finalbody]:
            yield from _of_statement(inner, defined)
    else:
        yield statement, "decides something when imported"


def _is_own(target: ast.expr) -> bool:
    if isinstance(target, ast.Subscript):
        return isinstance(target.value, ast.Name) and target.value.id in _MAPPINGS
    if isinstance(target, ast.Tuple):
        return all(_is_own(one) for one in target.elts)
    return isinstance(target, ast.Name)


def _is_update(value: ast.expr) -> bool:
    """`NODE_CLASS_MAPPINGS.update(other)` or a call of print."""
    if not isinstance(value, ast.Call):
        return False
    function = value.func
    if isinstance(function, ast.Name):
        return function.id == "print"
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "update"
        and isinstance(function.value, ast.Name)
        and function.value.id in _MAPPINGS
    )


def _of_calls(statement: ast.stmt, defined: set[str]) -> Iterable[tuple[ast.stmt, str]]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and not _is_harmless(node, defined):
            return [(statement, "calls something when imported")]
    return []


def _is_harmless(call: ast.Call, defined: set[str]) -> bool:
    function = call.func
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    return name in _HARMLESS or (isinstance(function, ast.Name) and name in defined)
