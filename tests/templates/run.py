"""The official workflow templates, converted: `python tests/templates/run.py [DIR]`.

DIR holds workflow files; without it, those of the package comfyui-workflow-templates-json. Every file must convert, and
where all of its nodes exist the prompt must validate. Which model files are there is left out of account: a name of any
file counts as one that is there. A choice that a node does not offer, because the template is made for a later version
of it, is counted apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from limner.engine import NodeRegistry
from limner.errors import LimnerError
from limner.graph import MissingNodeTypes, Port, convert_workflow, is_ui_workflow, parse, validate

PACKAGE = "comfyui_workflow_templates_json"


class AnyFile:
    """Every file is there."""

    def choices(self, port: Port) -> list[str]:
        """The names that come without files."""
        return list(port.also)

    def accepts(self, port: Port, value: Any) -> bool:
        """Whether it is a name at all."""
        return isinstance(value, str)


@dataclass
class Tally:
    """How many files there are, of how many all nodes exist, and what went wrong, by file."""

    files: int = 0
    converted: int = 0
    whole: int = 0
    valid: int = 0
    later: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """The totals."""
        return (
            f"{self.converted} of {self.files} templates convert; the nodes of {self.whole} all exist, and of these "
            f"{self.valid} make valid prompts ({len(self.later)} want a choice that later versions offer)"
        )


def workflows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The workflow files of a folder, without its indexes."""
    for file in sorted(folder.rglob("*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        if is_ui_workflow(data):
            yield file.relative_to(folder).as_posix(), data


def try_all(folder: Path, registry: NodeRegistry) -> Tally:
    """Convert and validate every workflow of a folder."""
    tally = Tally()
    for name, workflow in workflows(folder):
        tally.files += 1
        try:
            convert_workflow(workflow, registry, allow_unknown=True)
            tally.converted += 1
            prompt = convert_workflow(workflow, registry)
        except MissingNodeTypes as error:
            tally.missing.update({kind for _, kind, _ in error.missing})
            continue
        except LimnerError as error:
            tally.wrong[name] = str(error)
            continue
        tally.whole += 1
        found = validate(parse(prompt, registry), registry, AnyFile())
        if found.node_errors or found.error:
            unoffered = all(
                one["type"] == "value_not_in_list" for node in found.node_errors.values() for one in node["errors"]
            )
            kept = tally.later if found.node_errors and unoffered else tally.wrong
            kept[name] = json.dumps(found.node_errors or found.error)
        else:
            tally.valid += 1
    return tally


def templates() -> Path | None:
    """The folder of the installed package, or None."""
    try:
        return Path(str(resources.files(PACKAGE))) / "templates"
    except ModuleNotFoundError:
        return None


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=templates())
    folder = parser.parse_args().folder
    if folder is None:
        print(f"Install {PACKAGE.replace('_', '-')}, or name a folder of workflows.")
        return 2
    tally = try_all(folder, NodeRegistry.open())
    for name, why in (tally.wrong | tally.later).items():
        print(f"{name}: {why[:700]}")
    most = ", ".join(f"{kind} ({count})" for kind, count in tally.missing.most_common(20))
    print(f"missing most often: {most}")
    print(tally.text())
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
