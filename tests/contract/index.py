"""The map from rules to tests: read from `map/*.md`, written as README.md by `python -m tests.contract.index`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LINE = re.compile(r"^- (?P<rule>[^:`]+?): `?(?P<test>tests/[^`\s]+)`?(?P<more>(?:,? `?tests/[^`\s]+`?)*)")
HEAD = """# The contract, rule by rule

Which test holds which rule of ComfyUI's behaviour. The rules are in `rules.txt`, the routes in `routes.txt`; every
area keeps its part of the map in `map/AREA.md` as lines `- RULE: tests/…/test_x.py::test_name`; a route's rules are
named `METHOD /path STATUS`, a message's `message NAME`.
`python -m tests.contract.index` writes this file; `test_index.py` fails while a rule has no test, or a test is not there.
"""


@dataclass(frozen=True)
class Held:
    """A rule and a test that holds it, as one line of a map says."""

    rule: str
    test: str
    area: str


def rules() -> dict[str, str]:
    """Every rule of `rules.txt` with its fact, and every status of every route of `routes.txt`."""
    found = dict(line.split("  ", 1) for line in _lines("rules.txt"))
    for line in _lines("routes.txt"):
        words = line.split()
        statuses = [word for word in words if word.isdecimal()]
        name = " ".join(word for word in words if not word.isdecimal())
        found |= {f"{name} {status}".strip(): "" for status in statuses or [""]}
    return found


def _lines(file: str) -> list[str]:
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def held() -> Iterator[Held]:
    """Every line of every map. A line may name several rules (`- X1, X2: …`) and several tests."""
    for file in sorted((HERE / "map").glob("*.md")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if found := LINE.match(line):
                tests = [found["test"], *re.findall(r"tests/[^`\s,]+", found["more"])]
                for rule in re.split(r",\s*(?=[A-Za-z])", found["rule"]):
                    yield from (Held(rule.strip(), test.rstrip(","), file.stem) for test in tests)


@cache
def tests_of(file: Path) -> frozenset[str]:
    """Names of the tests in a file, those of classes as `Class::test`."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            inner = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {node.name, *(f"{node.name}::{one.name}" for one in inner)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return frozenset(found)


def exists(test: str) -> bool:
    """Whether a test of this name is there: `tests/…/test_x.py::test_name`, with or without `[…]` after it."""
    file, _, name = test.partition("::")
    path = ROOT / file
    if not path.is_file() or path.suffix not in (".py", ".mjs"):
        return False
    return not name or name.partition("[")[0] in tests_of(path)


def readme() -> str:
    """README.md: for each rule its fact and its tests, then the routes, then whatever else the maps name."""
    by_rule: dict[str, list[str]] = {}
    for one in held():
        tests = by_rule.setdefault(one.rule, [])
        if one.test not in tests:
            tests.append(one.test)
    known = rules()
    lines = [HEAD, "| rule | fact | held by |", "|---|---|---|"]
    lines += [f"| {rule} | {fact} | {_cell(by_rule.get(rule, []))} |" for rule, fact in known.items() if fact]
    lines += ["", "| route and status, or message | held by |", "|---|---|"]
    lines += [f"| {rule} | {_cell(by_rule.get(rule, []))} |" for rule, fact in known.items() if not fact]
    lines += ["", "| beyond the numbered rules | held by |", "|---|---|"]
    lines += [f"| {rule} | {_cell(tests)} |" for rule, tests in sorted(by_rule.items()) if rule not in known]
    return "\n".join(lines) + "\n"


def _cell(tests: list[str]) -> str:
    return "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests) or "—"


if __name__ == "__main__":
    (HERE / "README.md").write_text(readme(), encoding="utf-8")
