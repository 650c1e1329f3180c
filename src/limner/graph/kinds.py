"""What travels between nodes: the kind strings of the wire, and the widgets a person fills in.

A node's parameter is annotated with a Python type and, where the type alone does not say enough, with one of the
values below: `Annotated[int, Int(min=1, max=64)]`. The Python type is for readers and type checkers; the value is for
the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # annotations are evaluated at run time, where this package stays free of torch


@dataclass(frozen=True)
class Kind:
    """An object wired from another node: `name` is the wire's kind string, for example MODEL.

    extra: further options of the input, sent as they are (`{"lazy": True}`).
    """

    name: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Int:
    """An integer widget. Bounds are inclusive; `step` is what one click changes."""

    min: int | None = None
    max: int | None = None
    step: int | None = None
    control_after_generate: bool | None = None
    force_input: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, eq=False)
class Float:
    """A float widget. Bounds are inclusive; `round` is the grid the front end rounds to.

    Two are never equal: `typing` keeps one of equal annotations, and a bound of 0 would become another node's 0.0.
    """

    min: float | None = None
    max: float | None = None
    step: float | None = None
    round: float | bool | None = None
    force_input: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Text:
    """A string widget. `dynamic_prompts` lets the front end expand {a|b}."""

    multiline: bool | None = None
    dynamic_prompts: bool | None = None
    force_input: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Bool:
    """A switch."""

    label_on: str | None = None
    label_off: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Choice:
    """One of a fixed list of values."""

    options: tuple[Any, ...]
    multiselect: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __init__(self, options: Sequence[Any], multiselect: bool = False, extra: Mapping[str, Any] | None = None):
        object.__setattr__(self, "options", tuple(options))
        object.__setattr__(self, "multiselect", multiselect)
        object.__setattr__(self, "extra", dict(extra or {}))


@dataclass(frozen=True)
class Folder:
    """A file of a model folder, by name: `Folder("checkpoints")`. `also` are names offered beside the files.

    pairs: names offered where the folder of small decoders has both `NAME_encoder` and `NAME_decoder`.
    """

    key: str
    also: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class FileIn:
    """A file of the input folder. `suffixes` limits the list (empty: pictures); any existing file is accepted.

    below: a folder in it whose files are offered instead, in sub-folders too. Suffix "/": its folders, not files.
    """

    folder: str = "input"
    upload: bool = False
    suffixes: tuple[str, ...] = ()
    below: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Hidden:
    """Filled in by the engine: PROMPT, EXTRA_PNGINFO, UNIQUE_ID or DYNPROMPT. Not shown, not wired."""

    name: str


@dataclass(frozen=True)
class Each:
    """Marks `**values: Annotated[float, Each(("a.", "b."), Float(), 1.0)]`: a widget for each of these names, with a
    default. They are what the wire says and need not be Python names.
    """

    names: tuple[str, ...]
    widget: Int | Float | Text | Bool
    default: Any = None


@dataclass(frozen=True)
class Optional:
    """Marks an input that may be left out although it has a default: `Annotated[int, Int(), Optional()] = 3`."""


Image = Annotated[Tensor, Kind("IMAGE")]
"""Pictures, (batch, height, width, channels) float32 in 0..1."""
Mask = Annotated[Tensor, Kind("MASK")]
"""Masks, (batch, height, width) float32 in 0..1."""
Sigmas = Annotated[Tensor, Kind("SIGMAS")]
"""Noise levels, one dimension, falling."""
Latent = Annotated[dict[str, Any], Kind("LATENT")]
"""`{"samples": (batch, channels, h, w), "noise_mask"?, "batch_index"?}`."""
Conditioning = Annotated[list[Any], Kind("CONDITIONING")]
"""A list of `[tensor, options]`."""
AnyKind = Annotated[Any, Kind("*")]
"""Anything at all."""
