"""Which way imports run: the table of docs/architecture.md, no cycle, no torch where none belongs."""

import subprocess
import sys

import pytest

from tests.architecture.source import ALLOWED, FREE, TORCH_FREE, sources


def test_every_package_imports_only_what_the_table_allows() -> None:
    wrong = []
    for source in sources():
        if source.package not in ALLOWED:
            continue
        for target in source.imports():
            package = f"{target}.".split(".")[1]
            if package not in ALLOWED[source.package] | FREE | {source.package, "__version__"}:
                wrong.append(f"{source.name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_a_row_in_the_table() -> None:
    packages = {source.package for source in sources() if "/" in source.name}
    assert packages - {"assets"} <= set(ALLOWED)


def test_no_two_modules_import_each_other_at_their_top() -> None:
    names = {source.module for source in sources()}
    edges: dict[str, set[str]] = {}
    for source in sources():
        found = set()
        for node in source.tree.body:
            part = type(source)(source.path, type(source.tree)(body=[node], type_ignores=[]))
            for target in part.imports():
                hit = target if target in names else target.rpartition(".")[0]
                if hit in names and hit != source.module and not source.module.startswith(hit + "."):
                    found.add(hit)
        edges[source.module] = found
    assert not cycle(edges)


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """The members of one cycle, or none: what is left when leaves are taken away over and over."""
    left = {name: set(targets) for name, targets in edges.items()}
    while leaves := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in leaves}
    return sorted(left)


@pytest.mark.parametrize("package", TORCH_FREE)
def test_a_torch_free_package_imports_without_torch(package: str) -> None:
    script = f"import limner.{package}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_no_module_of_a_torch_free_package_imports_torch_at_its_top() -> None:
    modules = [
        source.module for source in sources() if source.package in TORCH_FREE and "migrations" not in source.name
    ]
    modules = [name for name in modules if not name.endswith("__main__")]
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script, *modules], check=False).returncode == 0
