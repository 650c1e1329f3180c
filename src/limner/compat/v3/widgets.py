"""V3 inputs with widgets: numbers, texts, switches, choices, and those that take several kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from limner.compat.v3 import base
from limner.compat.v3.base import ANY, ComfyTypeI, ComfyTypeIO, WidgetInput, comfytype, copied, plain, pruned


class FolderType(str, Enum):
    """The folders that results go to and files come from."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    """What a choice of files lets a person upload."""

    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class NumberDisplay(str, Enum):
    """How a number is shown."""

    number = "number"
    slider = "slider"
    gradient_slider = "gradient_slider"
    color = "color"


class ControlAfterGenerate(str, Enum):
    """What happens to a value after a prompt was queued; the front end does it."""

    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


class RemoteOptions:
    """A choice whose values come from a route.

    refresh: milliseconds between requests. timeout: milliseconds. control_after_refresh: `first` or `last` is chosen.
    """

    def __init__(
        self,
        route: str,
        refresh_button: bool,
        control_after_refresh: str = "first",
        timeout: int | None = None,
        max_retries: int | None = None,
        refresh: int | None = None,
    ) -> None:
        self.route = route
        self.refresh_button = refresh_button
        self.control_after_refresh = control_after_refresh
        self.timeout = timeout
        self.max_retries = max_retries
        self.refresh = refresh

    def as_dict(self) -> dict[str, Any]:
        """The option as the front end reads it."""
        return pruned(vars(self))


@comfytype(io_type="BOOLEAN")
class Boolean(ComfyTypeIO):
    """A switch."""

    Type = bool

    class Input(WidgetInput):
        """A switch, with words for on and off."""

        def __init__(self, id: str, *more: Any, label_on: str | None = None, label_off: str | None = None, **how: Any):  # noqa: A002
            super().__init__(id, *more, **how)
            self.label_on = label_on
            self.label_off = label_off

        def own_options(self) -> dict[str, Any]:
            """With the words."""
            return {**super().own_options(), "label_on": self.label_on, "label_off": self.label_off}


class _Number(WidgetInput):
    """Bounds and steps, of whole numbers and others."""

    def __init__(
        self,
        id: str,  # noqa: A002
        *more: Any,
        min: float | None = None,  # noqa: A002
        max: float | None = None,  # noqa: A002
        step: float | None = None,
        display_mode: NumberDisplay | str | None = None,
        **how: Any,
    ) -> None:
        super().__init__(id, *more, **how)
        self.min = min
        self.max = max
        self.step = step
        self.display_mode = display_mode

    def _between(self) -> dict[str, Any]:
        return {}

    def own_options(self) -> dict[str, Any]:
        """With the bounds."""
        return {
            **super().own_options(),
            "min": self.min,
            "max": self.max,
            "step": self.step,
            **self._between(),
            "display": plain(self.display_mode),
        }


@comfytype(io_type="INT")
class Int(ComfyTypeIO):
    """A whole number."""

    Type = int

    class Input(_Number):
        """A whole number in bounds. control_after_generate: the front end changes it after each prompt."""

        def __init__(self, id: str, *more: Any, control_after_generate: Any = None, **how: Any) -> None:  # noqa: A002
            super().__init__(id, *more, **how)
            self.control_after_generate = control_after_generate

        def _between(self) -> dict[str, Any]:
            return {"control_after_generate": plain(self.control_after_generate)}


@comfytype(io_type="FLOAT")
class Float(ComfyTypeIO):
    """A number."""

    Type = float

    class Input(_Number):
        """A number in bounds. round: the grid that the front end rounds to."""

        def __init__(self, id: str, *more: Any, round: float | bool | None = None, **how: Any) -> None:  # noqa: A002
            super().__init__(id, *more, **how)
            self.round = round

        def _between(self) -> dict[str, Any]:
            return {"round": self.round}


@comfytype(io_type="STRING")
class String(ComfyTypeIO):
    """A text."""

    Type = str

    class Input(WidgetInput):
        """A text of one line or many. dynamic_prompts: the front end expands {a|b}."""

        def __init__(
            self,
            id: str,  # noqa: A002
            *more: Any,
            multiline: bool = False,
            placeholder: str | None = None,
            dynamic_prompts: bool | None = None,
            **how: Any,
        ) -> None:
            super().__init__(id, *more, **how)
            self.multiline = multiline
            self.placeholder = placeholder
            self.dynamic_prompts = dynamic_prompts

        def own_options(self) -> dict[str, Any]:
            """With the size."""
            return {
                **super().own_options(),
                "multiline": self.multiline,
                "placeholder": self.placeholder,
                "dynamicPrompts": self.dynamic_prompts,
            }


def listed(options: Any) -> list[Any] | None:
    """Choices as a list: an Enum class gives its values, members their value."""
    if options is None:
        return None
    return [plain(one) for one in options]


@comfytype(io_type="COMBO")
class Combo(ComfyTypeIO):
    """One of a list of values."""

    Type = str

    class Input(WidgetInput):
        """A choice. options: a list or an Enum class. upload, image_folder: for choices that are files."""

        def __init__(
            self,
            id: str,  # noqa: A002
            options: Sequence[Any] | type[Enum] | None = None,
            *more: Any,
            control_after_generate: Any = None,
            upload: UploadType | None = None,
            image_folder: FolderType | str | None = None,
            remote: RemoteOptions | None = None,
            **how: Any,
        ) -> None:
            super().__init__(id, *more, **how)
            self.options = listed(options)
            self.multiselect = False
            self.control_after_generate = control_after_generate
            self.upload = upload
            self.image_folder = image_folder
            self.remote = remote
            self.default = plain(self.default)

        def own_options(self) -> dict[str, Any]:
            """With the choices."""
            upload = {} if self.upload is None else {str(plain(self.upload)): True}
            return {
                **super().own_options(),
                "multiselect": self.multiselect,
                "options": self.options,
                "control_after_generate": plain(self.control_after_generate),
                **upload,
                "image_folder": plain(self.image_folder),
                "remote": None if self.remote is None else self.remote.as_dict(),
            }

    class Output(base.Output):
        """An output that fits a choice of the same values."""

        def __init__(
            self,
            id: str | None = None,  # noqa: A002
            display_name: str | None = None,
            options: Sequence[Any] | type[Enum] | None = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
            **later: Any,
        ) -> None:
            super().__init__(id, display_name, tooltip, is_output_list, **later)
            self.options = listed(options) or []

        def get_io_type(self) -> Any:
            """The list of values."""
            return self.options or self.io_type


@comfytype(io_type="COMBO")
class MultiCombo(ComfyTypeI):
    """Several of a list of values."""

    Type = list

    class Input(Combo.Input):
        """A choice of several. chip: shown as chips."""

        def __init__(
            self,
            id: str,  # noqa: A002
            options: Sequence[Any] | type[Enum] | None = None,
            *more: Any,
            placeholder: str | None = None,
            chip: bool | None = None,
            **how: Any,
        ) -> None:
            super().__init__(id, options, *more, **how)
            self.multiselect = True
            self.placeholder = placeholder
            self.chip = chip

        def own_options(self) -> dict[str, Any]:
            """With what says that there may be several."""
            return {
                **super().own_options(),
                "multi_select": True,
                "placeholder": self.placeholder,
                "chip": self.chip,
            }


@comfytype(io_type="*")
class AnyType(ComfyTypeIO):
    """Anything at all: as an input it takes every output, as an output it fits every input."""

    class Input(base.Input):
        """Takes anything."""

        def get_io_type(self) -> str:
            """The kind that fits all."""
            return ANY

    class Output(base.Output):
        """Fits anything."""

        def get_io_type(self) -> str:
            """The kind that fits all."""
            return ANY


class MultiType:
    """An input of several kinds."""

    Type: Any = Any
    io_type = "COMFY_MULTITYPED_V3"

    class Input(base.Input):
        """Takes several kinds. id: a name, or a widget input, whose widget is shown and whose kind comes first."""

        def __init__(
            self,
            id: str | base.Input,  # noqa: A002
            types: Sequence[Any],
            display_name: str | None = None,
            *more: Any,
            **how: Any,
        ) -> None:
            self.input_override = copied(id) if isinstance(id, base.Input) else None
            name = id.id if isinstance(id, base.Input) else id
            super().__init__(name, display_name, *more, **how)
            if isinstance(id, base.Input):
                self.optional = id.optional if "optional" not in how and len(more) < 1 else self.optional
                self.display_name = id.display_name if display_name is None else display_name
                self.tooltip = id.tooltip if self.tooltip is None else self.tooltip
                self.lazy = id.lazy if self.lazy is None else self.lazy
            self._types = list(types)

        @property
        def io_types(self) -> list[str]:
            """The kinds, none twice."""
            own = [] if self.input_override is None else [self.input_override]
            return list(dict.fromkeys(kind_of(one) for one in [*own, *self._types]))

        def get_io_type(self) -> str:
            """The kinds with commas between."""
            kinds = self.io_types
            return ANY if "*" in kinds else ",".join(kinds)

        def as_dict(self) -> dict[str, Any]:
            """With the options of the widget, if there is one."""
            if self.input_override is None:
                return super().as_dict()
            kept: Mapping[str, Any] = self.input_override.as_dict()
            return {**kept, "widgetType": self.input_override.get_io_type(), **super().as_dict()}


def kind_of(one: Any) -> str:
    """The kind string of an io type, an input or a string."""
    if isinstance(one, str):
        return one
    get = getattr(one, "get_io_type", None)
    return str(get()) if get is not None and not isinstance(one, type) else str(one.io_type)
