"""Every node of the reference is here and describes itself as the reference does, apart from prose, or its absence has a
reason. The reference: one /object_info of ComfyUI without prose, `data/object_info.json.gz`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from limner.engine.registry import NodeRegistry
from limner.nodes.compare import Comparison, compare, read

DATA = Path(__file__).with_name("data")
REFERENCE = read(DATA / "object_info.json.gz")
LEAST = 329
"""Nodes that were equal when this was last written: fewer is a loss. Raise it as nodes come."""


@cache
def comparison() -> Comparison:
    registry = NodeRegistry.open()
    return compare([schema for kind in registry.kinds() if (schema := registry.get(kind))], REFERENCE)


def absent() -> dict[str, str]:
    """Kinds that are not here → why."""
    lines = (DATA / "absent_nodes.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t", 1) for line in lines if line and not line.startswith("#"))


def test_every_node_that_is_here_describes_itself_as_the_reference_does(capsys: pytest.CaptureFixture[str]) -> None:
    found = comparison()
    with capsys.disabled():
        print(f"\n{found}")
    assert found.differences == {}


def test_no_node_was_lost() -> None:
    found = comparison()
    assert len(found.present) - len(found.differences) >= LEAST


def test_every_node_is_here_or_its_absence_has_a_reason() -> None:
    assert sorted(set(REFERENCE) - comparison().present - set(absent())) == []


def test_a_reason_is_given_only_for_what_is_absent_and_known() -> None:
    assert sorted(set(absent()) & comparison().present) == [], "take these out of data/absent_nodes.txt"
    assert sorted(set(absent()) - set(REFERENCE)) == []
    assert [kind for kind, reason in absent().items() if len(reason.split()) < 3] == []
