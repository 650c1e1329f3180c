"""The schema of a node: its ports and powers, read off a typed function or read back from a description.

A `Schema` is plain data. It is derived once from the decorated function (`NodeFunction.schema`), stored as JSON in the
description cache, and read back without importing the node's module, so prompts are validated before torch is loaded.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from limner.errors import LimnerError
from limner.graph.kinds import Bool, Choice, Each, FileIn, Float, Folder, Hidden, Int, Kind, Optional, Text
from limner.graph.run import Run

Widget = Int | Float | Text | Bool | Choice | Folder | FileIn
_WIDGET_KINDS: Mapping[type, str] = {Int: "INT", Float: "FLOAT", Text: "STRING", Bool: "BOOLEAN"}
_MARKERS = (Kind, Int, Float, Text, Bool, Choice, Folder, FileIn, Hidden)
_PLAIN_WIDGETS: Mapping[type, Widget] = {int: Int(), float: Float(), str: Text(), bool: Bool()}


@dataclass(frozen=True)
class Port:
    """One input or output.

    kind: the wire's kind string (INT, IMAGE, COMBO for a choice, * for anything).
    options: as the wire has them, `default`, `min`, `tooltip` and so on; None when the reference sends none at all.
    choices: the values of a choice. folder: the model folder whose files are the choices; `also`, and of
    `pairs` those whose two files are there, come with them.
    file_in: the directory whose files are the choices, `suffixes` their endings ("/": its folders), `below` a folder in
    it that is searched instead, with its sub-folders.
    """

    name: str
    kind: str
    required: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[Any, ...] | None = None
    folder: str | None = None
    also: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    file_in: str | None = None
    suffixes: tuple[str, ...] = ()
    below: str = ""
    is_list: bool = False
    tooltip: str = ""

    @property
    def lazy(self) -> bool:
        """Whether the input is asked for only when the node's `lazy` companion wants it."""
        return bool(self.options.get("lazy"))

    @property
    def raw_link(self) -> bool:
        """Whether the node receives the link itself instead of its value."""
        return bool(self.options.get("rawLink"))


@dataclass(frozen=True)
class Schema:
    """What a node is: kind, ports, prose, and which companions it has.

    home: where its function is, `package.module:attribute`; imported when it first runs.
    hidden: input name → PROMPT, EXTRA_PNGINFO, UNIQUE_ID or DYNPROMPT.
    run_parameter: name of the `Run` parameter, "" if there is none.
    python_module, style: what the description says of where the node comes from and how it is laid out ("v1" or "v3").
    companions: names of the companions the function carries (changes_when, lazy, checks).
    validates: input names the `checks` companion takes over from the ordinary value checks; "*" for all of them, and
    "input_types" when it also looks at the kinds of what is linked, which are then not checked before.
    more: the form of inputs that are not declared but taken all the same (classes of packs whose inputs grow in the
    front end), None where others are ignored.
    asynchronous: whether calls give awaitables; such a node is taken early, so that others run meanwhile.
    """

    kind: str
    home: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    hidden: Mapping[str, str] = field(default_factory=dict)
    run_parameter: str = ""
    title: str = ""
    category: str = ""
    description: str = ""
    python_module: str = "nodes"
    style: Literal["v1", "v3"] = "v1"
    output_node: bool = False
    input_is_list: bool = False
    not_idempotent: bool = False
    deprecated: bool = False
    experimental: bool = False
    companions: frozenset[str] = frozenset()
    validates: frozenset[str] = frozenset()
    asynchronous: bool = False
    more: Port | None = None

    def input(self, name: str) -> Port | None:
        """The input of that name, or None."""
        return next((port for port in self.inputs if port.name == name), self.more)

    def ports(self) -> dict[str, Port]:
        """The inputs by name; where undeclared ones are taken, every name is there."""
        declared = {port.name: port for port in self.inputs}
        return declared if self.more is None else _EveryPort(declared, self.more)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for the description cache."""
        plain = {f: getattr(self, f) for f in self.__dataclass_fields__}
        plain["inputs"] = [_port_json(port) for port in self.inputs]
        plain["outputs"] = [_port_json(port) for port in self.outputs]
        plain["companions"] = sorted(self.companions)
        plain["validates"] = sorted(self.validates)
        plain["hidden"] = dict(self.hidden)
        if not self.asynchronous:
            del plain["asynchronous"]
        del plain["more"]
        return plain if self.more is None else {**plain, "more": _port_json(self.more)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Schema:
        """The inverse of `to_json`."""
        values = dict(plain)
        values["inputs"] = tuple(_port_from_json(port) for port in plain["inputs"])
        values["outputs"] = tuple(_port_from_json(port) for port in plain["outputs"])
        values["companions"] = frozenset(plain["companions"])
        values["validates"] = frozenset(plain["validates"])
        if values.get("more") is not None:
            values["more"] = _port_from_json(plain["more"])
        return cls(**values)


class _EveryPort(dict[str, Port]):
    """Ports by name, with one form for every name that is not declared."""

    def __init__(self, declared: Mapping[str, Port], more: Port) -> None:
        super().__init__(declared)
        self._more = more

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __missing__(self, name: str) -> Port:
        return replace(self._more, name=name)


def _port_json(port: Port) -> dict[str, Any]:
    plain = {f.name: getattr(port, f.name) for f in port.__dataclass_fields__.values()}
    defaults = Port(name="", kind="")
    return {key: value for key, value in plain.items() if key in ("name", "kind") or value != getattr(defaults, key)}


def _port_from_json(plain: Mapping[str, Any]) -> Port:
    values = dict(plain)
    for key in ("choices", "also", "pairs", "suffixes"):
        if values.get(key) is not None:
            values[key] = tuple(values[key])
    return Port(**values)


def parse_docstring(text: str | None) -> tuple[str, dict[str, str]]:
    """Split a docstring into its prose and its parameter lines (`name, other: what they mean`).

    A parameter line may go on in indented lines below it.
    """
    prose: list[str] = []
    lines: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(text or "").splitlines():
        found = re.match(r"(\w+(?:, \w+)*): (.+)$", line)
        if found and found[1].split(", ")[0] not in ("Raises", "Source", "Note"):
            names = found[1].split(", ")
            lines.update(dict.fromkeys(names, found[2]))
        elif names and line.startswith("    "):
            lines.update({name: f"{lines[name]} {line.strip()}" for name in names})
        else:
            names = []
            prose.append(line)
    return "\n".join(prose).strip(), lines


@dataclass(frozen=True)
class NodeTraits:
    """What the decorator says of a node beside its signature."""

    kind: str
    category: str
    title: str
    python_module: str = "nodes"
    style: Literal["v1", "v3"] = "v1"
    output_node: bool = False
    input_is_list: bool = False
    not_idempotent: bool = False
    deprecated: bool = False
    experimental: bool = False
    description: str = ""
    output_names: tuple[str, ...] | None = None


def derive_schema(function: Any, traits: NodeTraits) -> Schema:
    """Read the schema of a node off its function's signature, type hints and docstring.

    Raises LimnerError when an annotation says nothing of the kind.
    """
    hints = get_type_hints(function, include_extras=True)
    _, tooltips = parse_docstring(function.__doc__)
    inputs: list[Port] = []
    hidden: dict[str, str] = {}
    run_parameter = ""
    for name, parameter in inspect.signature(function).parameters.items():
        base, marker = _split(hints[name])
        # An optional input is spelled `x: Image | None = None`; a widget with a default is still required on the wire.
        if base is Run:
            run_parameter = name
        elif isinstance(marker, Hidden):
            hidden[name] = marker.name
        elif isinstance(marker, Each):
            inputs += _each_port(marker)
        else:
            required = parameter.default is not None and not _marked_optional(hints[name])
            port = replace(_input_port(name, base, marker, parameter, traits), required=required)
            inputs.append(replace(port, tooltip=tooltips.get(name, "")))
    return Schema(
        kind=traits.kind,
        home=f"{function.__module__}:{function.__name__}",
        inputs=tuple(inputs),
        outputs=_outputs(hints.get("return"), traits),
        hidden=hidden,
        run_parameter=run_parameter,
        title=traits.title,
        category=traits.category,
        description=traits.description,
        python_module=traits.python_module,
        style=traits.style,
        output_node=traits.output_node,
        input_is_list=traits.input_is_list,
        not_idempotent=traits.not_idempotent,
        deprecated=traits.deprecated,
        experimental=traits.experimental,
        asynchronous=inspect.iscoroutinefunction(function),
    )


def _split(annotation: Any) -> tuple[Any, Any]:
    """The plain type of an annotation and the first schema value attached to it; `X | None` counts as X."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return _split(members[0])
    if get_origin(annotation) is Annotated:
        base, *values = get_args(annotation)
        known = [
            v
            for v in values
            if isinstance(v, Kind | Int | Float | Text | Bool | Choice | Folder | FileIn | Hidden | Each)
        ]
        return base, known[-1] if known else None
    return annotation, None


def _each_port(marker: Each) -> list[Port]:
    options = {} if marker.default is None else {"default": marker.default}
    kind = _WIDGET_KINDS[type(marker.widget)]
    return [Port(name, kind, options={**options, **_widget_options(marker.widget)}) for name in marker.names]


def _marked_optional(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and any(isinstance(v, Optional) for v in get_args(annotation)[1:])


def _input_port(name: str, base: Any, marker: Any, parameter: inspect.Parameter, traits: NodeTraits) -> Port:
    marker = _PLAIN_WIDGETS.get(base) if marker is None else marker
    if marker is None:
        raise LimnerError(
            f"{traits.kind}: the parameter `{name}` says nothing of its kind.",
            do="Annotate it with a kind of limner.graph (Image, Latent, …) or Annotated[…, Kind('NAME')].",
        )
    options: dict[str, Any] = {}
    if parameter.default is not inspect.Parameter.empty and parameter.default is not None:
        options["default"] = parameter.default
    if isinstance(marker, Kind):
        return Port(name, marker.name, options={**options, **marker.extra})
    if isinstance(marker, Choice):
        if marker.multiselect:
            options["multiselect"] = True
        return Port(name, "COMBO", options={**options, **marker.extra}, choices=marker.options)
    if isinstance(marker, Folder):
        return Port(
            name, "COMBO", options={**options, **marker.extra}, folder=marker.key, also=marker.also, pairs=marker.pairs
        )
    if isinstance(marker, FileIn):
        upload = {"image_upload": True} if marker.upload else {}
        return Port(
            name,
            "COMBO",
            options={**options, **upload, **marker.extra},
            file_in=marker.folder,
            suffixes=marker.suffixes,
            below=marker.below,
        )
    return Port(name, _WIDGET_KINDS[type(marker)], options={**options, **_widget_options(marker)})


def _widget_options(widget: Int | Float | Text | Bool) -> dict[str, Any]:
    """The wire's options of a widget: every field that is set, under its wire name."""
    wire = {"dynamic_prompts": "dynamicPrompts", "force_input": "forceInput"}
    values = {name: getattr(widget, name) for name in widget.__dataclass_fields__ if name != "extra"}
    named = {wire.get(name, name): value for name, value in values.items() if value is not None}
    if named.get("forceInput") is False:
        del named["forceInput"]
    return {**named, **widget.extra}


def _outputs(annotation: Any, traits: NodeTraits) -> tuple[Port, ...]:
    """The outputs: none for None and for `Ui`, one for a kind, the fields in order for a NamedTuple."""
    if annotation is None or annotation is type(None) or getattr(annotation, "__name__", "") in ("Ui", "NodeResult"):
        return ()
    if hasattr(annotation, "_fields"):
        hints = get_type_hints(annotation, include_extras=True)
        ports = [_output_port(name, hints[name], traits) for name in annotation._fields]
    else:
        port = _output_port("", annotation, traits)
        ports = [replace(port, name=port.kind)]
    if traits.output_names is not None:
        ports = [replace(port, name=name) for port, name in zip(ports, traits.output_names, strict=True)]
    return tuple(ports)


def _output_port(name: str, annotation: Any, traits: NodeTraits) -> Port:
    base, marker = _split(annotation)
    is_list = False
    if marker is None and get_origin(base) is list:
        base, marker = _split(get_args(base)[0])
        is_list = True
    marker = _PLAIN_WIDGETS.get(base) if marker is None else marker
    if marker is None:
        raise LimnerError(
            f"{traits.kind}: the output `{name or annotation}` says nothing of its kind.",
            do="Return a kind of limner.graph, or a NamedTuple of kinds.",
        )
    kind = marker.name if isinstance(marker, Kind) else _WIDGET_KINDS.get(type(marker), "COMBO")
    return Port(name, kind, is_list=is_list)
