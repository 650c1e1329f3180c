"""Run golden cases: python tests/golden/run.py DIR

DIR holds a folder per family, each with case files (see README.md in DIR's origin, and `cases_in`). A line a case,
`PASS|FAIL|UNSUPPORTED family/case error tolerance`, of the output nearest to or furthest beyond its tolerance; then
the totals. The exit status is 1 when a case failed.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

# MKL's exp and matmul differ in the last bit from one processor to the next, and 1024 · exp(x) makes 6e-5 of that bit.
# On this path, which every x86-64 has, its results are those of the machine the cases were measured on. Set before
# torch is imported.
os.environ.setdefault("MKL_CBWR", "AVX")
if __name__ == "__main__":  # run as a file from anywhere: the runners are imported from the repository
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.golden.case import Check, UnsupportedCaseError

Runner = Callable[[Path, Path], list[Check]]
HERE = Path(__file__).resolve().parent
SUFFIXES = (".workflow.json", ".safetensors", ".json.gz", ".json")
PARTS = (".meta.json", ".final.latent.safetensors")  # of a workflow case, beside its .workflow.json


@dataclass(frozen=True)
class Verdict:
    """What came of one case."""

    word: str  # PASS, FAIL or UNSUPPORTED
    name: str
    checks: tuple[Check, ...] = ()
    note: str = ""

    def line(self) -> str:
        judged = [check for check in self.checks if check.error is not None]
        worst = max(judged, key=lambda check: check.severity, default=None)
        numbers = f"{worst.error:.3g} {worst.tolerance:.3g}" if worst else "- -"
        notes = [self.note] if self.note else []
        for label, names in (
            ("failed", [check.name for check in self.checks if not check.passed]),
            ("unsupported", [check.name for check in self.checks if check.error is None]),
        ):
            if names:
                notes.append(f"{label}: {', '.join(names)}")
        return " ".join([self.word, self.name, numbers, *notes])


def runners() -> list[tuple[str, Runner]]:
    """Every (pattern, function) of the runner files, the most particular pattern first."""
    found: list[tuple[str, Runner]] = []
    for file in sorted((HERE / "runners").glob("*.py")):
        if file.stem != "__init__":
            found += importlib.import_module(f"tests.golden.runners.{file.stem}").RUNNERS.items()
    return sorted(found, key=lambda entry: (entry[0].count("*"), -len(entry[0])))


def cases_in(root: Path) -> Iterator[Path]:
    """The case files of all family folders; manifests, pictures and parts of other cases are none."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if not path.name.endswith(SUFFIXES) or path.name.endswith(PARTS):
                continue
            if "manifest.json" not in path.name:
                yield path


def case_name(path: Path) -> str:
    """family/stem."""
    suffix = next(suffix for suffix in SUFFIXES if path.name.endswith(suffix))
    return f"{path.parent.name}/{path.name.removesuffix(suffix)}"


def judge(path: Path, known: list[tuple[str, Runner]]) -> Verdict:
    """Run one case by the first runner that knows it."""
    name = case_name(path)
    reason = ""
    for pattern, runner in known:
        if not fnmatch(f"{path.parent.name}/{path.name}", pattern):
            continue
        try:
            checks = tuple(runner(path, path.parent))
        except UnsupportedCaseError as error:
            reason = str(error)
            continue
        except Exception:  # whatever a case does to the code under test, the others are still judged
            return Verdict("FAIL", name, note=traceback.format_exc(limit=-3).strip().replace("\n", " | "))
        if all(check.error is None for check in checks):
            return Verdict("UNSUPPORTED", name, checks)
        return Verdict("PASS" if all(check.passed for check in checks) else "FAIL", name, checks)
    return Verdict("UNSUPPORTED", name, note=reason)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="the folder that holds the families' folders")
    parser.add_argument("--only", default="*", help="run only the cases whose family/case matches this pattern")
    arguments = parser.parse_args()
    logging.getLogger("limner").setLevel(logging.ERROR)  # cases name embeddings that are not there
    known = runners()
    totals: Counter[str] = Counter()
    for path in cases_in(arguments.dir):
        if fnmatch(case_name(path), arguments.only):
            verdict = judge(path, known)
            totals[verdict.word] += 1
            print(verdict.line(), flush=True)
    print(f"{totals['PASS']} passed, {totals['FAIL']} failed, {totals['UNSUPPORTED']} unsupported")
    return 1 if totals["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
