"""What the V3 types are made of: an io type with an Input and an Output, and the options they put on the wire."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from enum import Enum
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T", bound=type)


class AnyText(str):
    """A kind that fits every other: `!=` is never true (rule of type matching for `*`)."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False


ANY = AnyText("*")


def pruned(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def plain(value: Any) -> Any:
    """An enum member as its value; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


class LazyType:
    """A class attribute that is a class of another module, imported when it is asked for."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return getattr(import_module(self._module), self._name)


TENSOR = LazyType("torch", "Tensor")


class Input:
    """An input that another node fills.

    id: its name in prompts. optional: may be left out. lazy: asked for only when the node wants it. raw_link: the node
    gets the link, not the value. extra_dict and further keywords are sent to the front end as they are.
    """

    io_type: str = "*"
    Parent: Any = None

    def __init__(
        self,
        id: str,  # noqa: A002 - the name that packs use
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        extra_dict: Mapping[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
        **later: Any,
    ) -> None:
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.lazy = lazy
        self.extra_dict = dict(extra_dict or {})
        self.raw_link = raw_link
        self.advanced = advanced
        self.rawLink = raw_link
        self.later = later

    def own_options(self) -> dict[str, Any]:
        """The options that this kind of input adds; None where one is not set."""
        return {}

    def as_dict(self) -> dict[str, Any]:
        """The options as the front end reads them."""
        return {
            **pruned(
                {
                    "display_name": self.display_name,
                    "tooltip": self.tooltip,
                    "lazy": self.lazy,
                    "rawLink": self.raw_link,
                    "advanced": self.advanced,
                }
            ),
            **pruned(self.own_options()),
            **pruned(self.later),
            **pruned(self.extra_dict),
        }

    def get_io_type(self) -> str:
        """The kind string."""
        return self.io_type

    def get_all(self) -> list[Input]:
        """This input and those that come with it."""
        return [self]

    def validate(self) -> None:
        """Raise ValueError when the input cannot be as it was declared."""


class WidgetInput(Input):
    """An input with a value of its own. socketless: has no socket; force_input: has only a socket."""

    def __init__(
        self,
        id: str,  # noqa: A002
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: Any = None,
        socketless: bool | None = None,
        widget_type: str | None = None,
        force_input: bool | None = None,
        extra_dict: Mapping[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
        **later: Any,
    ) -> None:
        super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced, **later)
        self.default = default
        self.socketless = socketless
        self.widget_type = widget_type
        self.force_input = force_input

    def own_options(self) -> dict[str, Any]:
        """The default, and how the widget is shown."""
        return {
            "default": plain(self.default),
            "socketless": self.socketless,
            "widgetType": self.widget_type,
            "forceInput": self.force_input,
        }

    def get_io_type(self) -> str:
        """The kind string."""
        return self.io_type


class Output:
    """An output. display_name: the name it is shown by, its kind when there is none."""

    io_type: str = "*"
    Parent: Any = None

    def __init__(
        self,
        id: str | None = None,  # noqa: A002
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
        **later: Any,
    ) -> None:
        self.id = id
        self.display_name = display_name or id
        self.tooltip = tooltip
        self.is_output_list = is_output_list
        self.later = later

    def get_io_type(self) -> Any:
        """The kind string; the list of options for an output that is a choice."""
        return self.io_type

    def as_dict(self) -> dict[str, Any]:
        """The output's options."""
        return pruned(
            {
                "display_name": self.display_name,
                "tooltip": self.tooltip,
                "is_output_list": self.is_output_list,
                **self.later,
            }
        )

    def validate(self) -> None:
        """Raise ValueError when the output cannot be as it was declared."""


class DynamicInput(Input):
    """An input that stands for several: what a node gets under its id is made of the prompt's inputs `id.…`."""


class DynamicOutput(Output):
    """An output whose kind depends on what is connected."""


class ComfyType:
    """A kind of value. Type: its Python type; io_type: its kind string."""

    Type: Any = Any
    io_type: str = "*"


_PLAIN_INPUT: Any = Input
_PLAIN_OUTPUT: Any = Output


class ComfyTypeI(ComfyType):
    """A kind that is only taken."""

    Input: Any = _PLAIN_INPUT


class ComfyTypeIO(ComfyTypeI):
    """A kind that is taken and given."""

    Output: Any = _PLAIN_OUTPUT


def comfytype(io_type: str, **attributes: Any) -> Callable[[T], T]:
    """Make a class the io type of that name: its Input and Output know it. attributes are set on the class."""

    def decorate(cls: T) -> T:
        one: Any = cls
        one.io_type = io_type
        for name, value in attributes.items():
            setattr(one, name, value)
        for part in ("Input", "Output"):
            inherited = getattr(one, part, None)
            if inherited is None:
                continue
            bound: Any = inherited if part in vars(one) else type(part, (inherited,), {"__doc__": inherited.__doc__})
            bound.io_type = io_type
            bound.Parent = one
            bound.__qualname__ = f"{one.__name__}.{part}"
            setattr(one, part, bound)
        return cls

    return decorate


def Custom(io_type: str) -> Any:  # noqa: N802 - the name that packs use
    """A new kind of value by its name, with Input and Output."""
    made = type(io_type if io_type.isidentifier() else "Custom", (ComfyTypeIO,), {"__doc__": f"{io_type} values."})
    return comfytype(io_type)(made)


def copied(one: Any, **changes: Any) -> Any:
    """A copy of an input or output with some attributes changed."""
    made = copy.copy(one)
    for name, value in changes.items():
        setattr(made, name, value)
    return made
