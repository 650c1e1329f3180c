"""Real node packs, unmodified, on a Limner of their own each: `python tests/packs/run.py PACKS_DIR [--only NAME]`.

PACKS_DIR holds one folder a pack. Each is the only pack of a server that is started for it: it must import, its nodes
must be in `/object_info`, and the workflows in `workflows/<pack>/` must run. `workflows/<pack>/beside.txt` names packs that its
authors want beside it. `--write FILE` writes the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.packs.pictures import make_inputs  # noqa: E402 - the repository is not on the path before
from tests.serving import Server  # noqa: E402

RUN_SECONDS = 300.0
WAIT_SECONDS = 240.0


@dataclass
class Result:
    """What became of one pack. nodes: how many of its nodes `/object_info` shows, of how many it registered."""

    name: str
    version: str
    state: str = ""
    seconds: float = 0.0
    nodes: int = 0
    shown: int = 0
    problems: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def imported(self) -> bool:
        """Whether it came in without an error and shows all its nodes."""
        return self.state in ("loaded", "cached") and self.nodes == self.shown and not self.problems

    def row(self) -> str:
        """Its line of the table."""
        what = "; ".join([*self.problems, *self.failed]) or ""
        runs = ", ".join(self.ran) or "–"
        state = "yes" if self.imported else "no"
        return f"| {self.name} | {self.version} | {state} | {self.shown} of {self.nodes} | {self.seconds:.1f} s | {runs} | {what} |"


def commit(folder: Path) -> str:
    """The commit that the pack was fetched at, "" where that is not known."""
    noted = folder / ".commit"
    if noted.is_file():
        return noted.read_text().strip()
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h %cs"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def start(pack: Path, base: Path) -> Server:
    """A server whose only pack is this one, on its own copy of the environment."""
    packs = base / "packs"
    packs.mkdir(parents=True)
    beside = HERE / "workflows" / pack.name / "beside.txt"
    others = [pack.parent / name for name in beside.read_text().split()] if beside.is_file() else []
    for one in (pack, *others):
        (packs / one.name).symlink_to(one, target_is_directory=True)
    make_inputs(base / "input")
    path = os.pathsep.join([str(HERE / "fixtures"), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = path.rstrip(os.pathsep)
    return Server(base, "--custom-nodes-directory", str(packs), "--cpu")


def loaded(server: Server, name: str) -> dict[str, Any]:
    """The report of the pack, once it is there."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        found = server.get("/api/packs")
        if found.get("ready"):
            return next(one for one in found["packs"] if one["name"] == name)
        time.sleep(0.2)
    raise AssertionError("the packs were not loaded in time")


def run_prompt(server: Server, prompt: dict[str, Any]) -> str:
    """Run a workflow. Returns "" or what went wrong."""
    try:
        prompt_id = server.post("/prompt", {"prompt": prompt})["prompt_id"]
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")[:600]
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        found = server.get(f"/history/{prompt_id}")
        if prompt_id in found:
            status = found[prompt_id]["status"]
            if status["status_str"] == "success":
                return "" if found[prompt_id]["outputs"] else "it ran and showed nothing"
            last = status["messages"][-1][1]
            frames = "".join(last.get("traceback") or [])[-500:]
            return f"{last.get('node_type')}: {last.get('exception_message', '').strip()} {frames}"
        time.sleep(0.05)
    return f"it did not end within {RUN_SECONDS:.0f} s"


def try_pack(pack: Path) -> Result:
    """Start a server with the pack, look at its nodes, and run its workflows."""
    result = Result(pack.name, commit(pack))
    with tempfile.TemporaryDirectory() as base:
        server = start(pack.resolve(), Path(base))
        try:
            report = loaded(server.wait(), pack.name)
            result.version = f"{report['about'].get('version', '')} {result.version}".strip() or "?"
            result.state, result.seconds = report["state"], report["seconds"]
            result.problems = [one["what"] for one in report["problems"]]
            shown = server.get("/object_info")
            result.nodes = len(report["kinds"])
            result.shown = sum(kind in shown for kind in report["kinds"])
            for file in sorted((HERE / "workflows" / pack.name).glob("*.json")):
                wrong = run_prompt(server, json.loads(file.read_text()))
                (result.failed if wrong else result.ran).append(f"{file.stem}: {wrong}" if wrong else file.stem)
        except (AssertionError, OSError, KeyError, ValueError, StopIteration) as error:
            result.problems.append(f"{type(error).__name__}: {error}"[:600])
        finally:
            server.process.terminate()
            try:
                server.process.wait(15)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
        if result.problems or result.failed:
            print(server.log.read_text(errors="replace")[-4000:])
    return result


def table(results: list[Result]) -> str:
    """The page: how many, and a row a pack."""
    imported = sum(one.imported for one in results)
    ran = sum(bool(one.ran) and not one.failed for one in results)
    head = [
        "# Node packs",
        "",
        "Each pack as its authors publish it, alone on a server of its own, on a processor without accelerator; made by",
        "`make packs PACKS_DIR=…` (one folder a pack; what the packs need from PyPI is installed by hand).",
        "",
        f"{len(results)} packs: {imported} import without an error and show all their nodes; {ran} ran every workflow of",
        "`tests/packs/workflows/`.",
        "",
        "| pack | version | imports | nodes shown | import | workflows that ran | what failed and why |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(one.row().replace("\n", " ") for one in results), ""])


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="packs whose name holds this")
    parser.add_argument("--write", type=Path, help="write the table here")
    arguments = parser.parse_args()
    packs = sorted((one for one in arguments.folder.iterdir() if one.is_dir()), key=lambda one: one.name.lower())
    results: list[Result] = []
    for pack in packs:
        if arguments.only.lower() in pack.name.lower():
            results.append(try_pack(pack))
            print(results[-1].row(), flush=True)
    if arguments.write:
        arguments.write.write_text(table(results))
    return 0 if all(one.imported and not one.failed for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
