"""Limits of control groups: versions 1 and 2, groups inside groups, what a container sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from limner.memory import cgroups

GB = 1024**3


class Tree:
    """A mount point and the file that tells the process's groups, under a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.mount = root / "mount"
        self.membership = root / "cgroup"
        self.mount.mkdir()

    def group(self, path: str, **files: object) -> None:
        place = self.mount / path
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name.replace("__", ".")).write_text(f"{text}\n")

    def limit(self) -> int | None:
        return cgroups.limit(self.mount, self.membership)

    def available(self) -> int | None:
        return cgroups.available(self.mount, self.membership)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_without_groups_there_is_no_limit(tree: Tree) -> None:
    assert (tree.limit(), tree.available()) == (None, None)
    tree.membership.write_text("0::/user.slice\n")
    assert (tree.limit(), tree.available()) == (None, None)


def test_no_limit_is_no_limit(tree: Tree) -> None:
    tree.membership.write_text("4:memory:/a\n0::/a\n")
    tree.group("a", memory__max="max", memory__current=7)
    tree.group("memory/a", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=7)
    assert (tree.limit(), tree.available()) == (None, None)


def test_a_limit_counts_and_file_pages_that_can_be_dropped_are_free(tree: Tree) -> None:
    tree.membership.write_text("0::/\n")
    tree.group("", memory__max=1000, memory__current=700)
    assert (tree.limit(), tree.available()) == (1000, 300)
    tree.group("", memory__stat="anon 400\ninactive_file 200\nactive_file 100")
    assert (tree.limit(), tree.available()) == (1000, 600)


def test_more_file_pages_than_are_counted_are_no_more_than_the_limit(tree: Tree) -> None:
    tree.group("", memory__max=1000, memory__current=100, memory__stat="inactive_file 200")
    assert tree.available() == 1000


def test_of_groups_inside_groups_the_smallest_limit_counts(tree: Tree) -> None:
    tree.membership.write_text("0::/outer/middle/inner\n")
    tree.group("outer", memory__max=8 * GB, memory__current=7 * GB)
    tree.group("outer/middle", memory__max=4 * GB, memory__current=1 * GB)
    tree.group("outer/middle/inner", memory__max="max", memory__current=GB // 2)
    tree.group("outer/other", memory__max=1, memory__current=1)
    assert tree.limit() == 4 * GB
    assert tree.available() == 1 * GB, "the outer group's other processes have used up most of it"


def test_the_limit_that_slows_a_process_down_counts_too(tree: Tree) -> None:
    tree.group("", memory__max=8 * GB, memory__high=2 * GB, memory__current=GB)
    assert (tree.limit(), tree.available()) == (2 * GB, GB)


def test_version_1_has_a_tree_for_memory(tree: Tree) -> None:
    tree.membership.write_text("9:name=systemd:/\n4:cpu,memory:/box/one\n0::/\n")
    tree.group("memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=50 * GB)
    tree.group("memory/box", memory__limit_in_bytes=6 * GB, memory__usage_in_bytes=5 * GB)
    tree.group(
        "memory/box/one",
        memory__limit_in_bytes=3 * GB,
        memory__usage_in_bytes=GB,
        memory__stat=f"inactive_file 1\ntotal_inactive_file {GB // 2}",
    )
    assert (tree.limit(), tree.available()) == (3 * GB, 1 * GB)


def test_a_computer_may_have_both_versions(tree: Tree) -> None:
    tree.membership.write_text("4:memory:/a\n0::/a\n")
    tree.group("memory/a", memory__limit_in_bytes=3000, memory__usage_in_bytes=0)
    tree.group("unified/a", memory__max=2000, memory__current=0)
    assert tree.limit() == 2000


@pytest.mark.parametrize("path", ["/docker/0123abc", "/../outside"])
def test_where_a_container_sees_only_its_own_group_the_mount_point_is_it(tree: Tree, path: str) -> None:
    tree.membership.write_text(f"4:memory:{path}\n0::{path}\n")
    tree.group("memory", memory__limit_in_bytes=3000, memory__usage_in_bytes=1000)
    tree.group("../outside", memory__max=1, memory__current=1)
    assert (tree.limit(), tree.available()) == (3000, 2000)


def test_a_limit_that_is_overrun_leaves_nothing(tree: Tree) -> None:
    tree.group("", memory__max=1000, memory__current=1200)
    assert tree.available() == 0
