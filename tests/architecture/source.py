"""The source tree as the architecture tests see it: files, their imports, their functions."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "limner"

# docs/architecture.md, section 2. `errors` and `settings` may be imported by all.
ALLOWED: dict[str, set[str]] = {
    "graph": set(),
    "store": set(),
    "memory": set(),
    "weights": {"memory", "store"},
    "sampling": set(),
    "models": {"weights", "memory", "sampling"},
    "engine": {"graph", "store"},
    "nodes": {"graph", "store", "weights", "sampling", "models", "quantize"},
    "compat": {"graph", "store", "memory", "weights", "sampling", "models", "quantize", "engine", "nodes"},
    "server": {"graph", "store", "engine"},
    "quantize": {"weights", "memory", "sampling", "models"},
    "cli": {
        "graph",
        "store",
        "memory",
        "weights",
        "sampling",
        "models",
        "quantize",
        "engine",
        "nodes",
        "compat",
        "server",
    },
}
FREE = {"errors", "settings", ""}
TORCH_FREE = ("graph", "store", "engine", "server", "cli")


@dataclass(frozen=True)
class Source:
    """One file: its path, its tree, and the package of `limner` it belongs to."""

    path: Path
    tree: ast.Module

    @property
    def name(self) -> str:
        """The path below the package, for messages and ids."""
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def package(self) -> str:
        """The first folder, or the module's own name at the top."""
        first = self.path.relative_to(PACKAGE).parts[0]
        return first.removesuffix(".py")

    @property
    def module(self) -> str:
        """The dotted module name."""
        parts = ["limner", *self.path.relative_to(PACKAGE).with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def imports(self) -> Iterator[str]:
        """Every module of `limner` that is imported at run time; TYPE_CHECKING blocks do not count."""
        for node in run_time_nodes(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "limner")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "limner":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        yield node
        pending.extend(ast.iter_child_nodes(node))


@cache
def sources() -> tuple[Source, ...]:
    """Every Python file of the package."""
    files = sorted(path for path in PACKAGE.rglob("*.py"))
    return tuple(Source(path, ast.parse(path.read_text(encoding="utf-8"))) for path in files)
