"""Reading a network's configuration off its tensors' shapes.

What a shape tells is taken from the shape. What it cannot tell (head counts, activations) comes from the family's
rule or the file's `config`; where that config also says something a shape tells, the two must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limner.errors import BadInput

Shapes = Mapping[str, tuple[int, ...]]
Overrides = Mapping[str, Any]


def shape(shapes: Shapes, key: str, rank: int | None = None) -> tuple[int, ...]:
    """The shape of one tensor that must be there, with `rank` axes where that is given."""
    if key not in shapes:
        raise BadInput(f"The tensor {key} is missing.", why="The network cannot be built without it.")
    found = tuple(shapes[key])
    if rank is not None and len(found) != rank:
        raise BadInput(f"The tensor {key} has shape {list(found)}.", why=f"It must have {rank} axes.")
    return found


def count(shapes: Shapes, pattern: str) -> int:
    """How many of `pattern` with {} = 0, 1, 2 … are there in a row; a prefix counts as a key that starts with it."""
    numbers = _numbers(shapes, pattern)
    length = 0
    while length in numbers:
        length += 1
    return length


def count_whole(shapes: Shapes, pattern: str) -> int:
    """The same of blocks that must be whole. Raises BadInput where one lacks and later ones are there."""
    length, numbers = count(shapes, pattern), _numbers(shapes, pattern)
    if len(numbers) > length:
        lacking = ", ".join(str(number) for number in range(max(numbers)) if number not in numbers)
        raise BadInput(
            f"Of {pattern.rstrip('.')} up to {max(numbers)} the file lacks {lacking}.",
            why="The file is incomplete, or put together of several.",
            do="Get a complete one.",
        )
    return length


def _numbers(shapes: Shapes, pattern: str) -> set[int]:
    """The numbers that stand in for {}."""
    before, _, after = pattern.partition("{}")
    numbers = set()
    for key in shapes:
        if key.startswith(before):
            number, _, rest = key[len(before) :].partition(".")
            if number.isdecimal() and rest.startswith(after.lstrip(".")):
                numbers.add(int(number))
    return numbers


def agree(overrides: Overrides, name: str, found: object) -> None:
    """Refuse a config that says something else about `name` than the shapes do; null means it says nothing."""
    said = overrides.get(name)
    if isinstance(said, list | tuple) and isinstance(found, list | tuple):
        said, found = list(said), list(found)
    if said is not None and said != found:
        raise BadInput(
            f"The config says {name} = {said}, the tensors say {found}.",
            why="The shapes of the tensors decide, so the config is wrong or belongs to another file.",
            do="Correct or remove the `config` entry of the file's metadata.",
        )


def groups(overrides: Overrides, widths: list[int]) -> int:
    """The number of groups of every group normalization: `norm_groups`, 32 by rule; must divide all `widths`."""
    number = int(overrides.get("norm_groups") or 32)
    for width in widths:
        if number < 1 or width % number:
            raise BadInput(
                f"norm_groups = {number} does not divide {width} channels.",
                why="A group normalization splits the channels into equal groups.",
                do="Give a `norm_groups` in the file's config that divides every width.",
            )
    return number
