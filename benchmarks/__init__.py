"""Benchmarks: each file asks a question, states a budget, and prints one JSON line a figure."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any


@cache
def machine() -> dict[str, Any]:
    """Where the figures come from: processor, cores, commit."""
    import os

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "commit": commit.stdout.strip()}


def report(name: str, **figures: Any) -> None:
    """Print one line of figures; `ok` is added where both a `value` and a `budget` (an upper bound) or a `ratio` and a
    `least` (a lower bound) are given."""
    if "value" in figures and "budget" in figures:
        figures["ok"] = figures["value"] <= figures["budget"]
    if "ratio" in figures and "least" in figures:
        figures["ok"] = figures["ratio"] >= figures["least"]
    print(json.dumps({"bench": name, **figures, **machine()}, ensure_ascii=False), flush=True)
