"""Sizes that keep the house readable, and things that are not done in it."""

import ast

from tests.architecture.source import ALLOWED, sources

LINES = 800
NETWORK_LINES = 1000
FUNCTION_LINES = 80


def is_network(name: str) -> bool:
    """Model files, which read one architecture top to bottom, may be longer."""
    return name.startswith("models/")


def test_no_file_is_over_its_budget() -> None:
    sizes = {source.name: len(source.path.read_text(encoding="utf-8").splitlines()) for source in sources()}
    over = {name: size for name, size in sizes.items() if size > (NETWORK_LINES if is_network(name) else LINES)}
    assert not over


def test_no_function_is_over_eighty_lines() -> None:
    long = [
        f"{source.name}:{function.lineno} {function.name}"
        for source in sources()
        for function in source.functions()
        if (function.end_lineno or 0) - function.lineno + 1 > FUNCTION_LINES
    ]
    assert not long


def test_nothing_is_declared_global() -> None:
    found = [s.name for s in sources() for node in ast.walk(s.tree) if isinstance(node, ast.Global)]
    assert not found


def test_no_exception_is_swallowed_in_silence() -> None:
    found = [
        f"{source.name}:{node.lineno}"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert not found


def test_tensors_change_device_only_in_memory_and_weights() -> None:
    found = []
    for source in sources():
        if source.package in ("memory", "weights"):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "cuda"):
                written = [ast.unparse(part) for part in [*node.args, *(k.value for k in node.keywords)]]
                if any("device" in text for text in written):
                    found.append(f"{source.name}:{node.lineno}")
    assert not found


def test_every_public_function_of_a_door_is_documented_and_typed() -> None:
    bare = []
    for source in sources():
        if source.package not in ALLOWED or "migrations" in source.name:
            continue
        for node in source.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith(
                "_"
            ):
                if not ast.get_docstring(node):
                    bare.append(f"{source.name}:{node.lineno} {node.name} says nothing of itself")
                if not isinstance(node, ast.ClassDef) and node.returns is None:
                    bare.append(f"{source.name}:{node.lineno} {node.name} has no return type")
    assert not bare, "\n".join(bare)


def test_every_file_says_in_its_first_line_what_it_is() -> None:
    assert not [source.name for source in sources() if not ast.get_docstring(source.tree)]


def test_nothing_committed_names_a_path_of_one_machine() -> None:
    texts = {s.name: s.path.read_text(encoding="utf-8") for s in sources()}
    assert not [name for name, text in texts.items() if "/work/" in text or "/root/" in text]
