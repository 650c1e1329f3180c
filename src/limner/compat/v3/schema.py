"""What a V3 node says of itself: its Schema, the hidden values it asks for, and how both look on the wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from limner.compat.v3.base import Input, Output, pruned
from limner.compat.v3.dynamic import MatchType, sections


class Hidden(str, Enum):
    """Values that the engine fills in; a node finds them on `cls.hidden`."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"  # noqa: S105 - the name of a marker
    api_key_comfy_org = "API_KEY_COMFY_ORG"


class HiddenHolder:
    """The hidden values of one call. A value that was not asked for is None."""

    def __init__(
        self,
        unique_id: str | None = None,
        prompt: Any = None,
        extra_pnginfo: Any = None,
        dynprompt: Any = None,
        auth_token_comfy_org: str | None = None,
        api_key_comfy_org: str | None = None,
        **more: Any,
    ) -> None:
        self.unique_id = unique_id
        self.prompt = prompt
        self.extra_pnginfo = extra_pnginfo
        self.dynprompt = dynprompt
        self.auth_token_comfy_org = auth_token_comfy_org
        self.api_key_comfy_org = api_key_comfy_org
        self.__dict__.update(more)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    @classmethod
    def from_dict(cls, values: Mapping[Any, Any] | None) -> HiddenHolder:
        """A holder of values by name or by member of Hidden."""
        known = {one.value: one.name for one in Hidden}
        plain = {key.name if isinstance(key, Hidden) else str(key): value for key, value in (values or {}).items()}
        return cls(**{known.get(key, key): value for key, value in plain.items()})


@dataclass
class NodeInfoV1:
    """The entry of /object_info, field by field."""

    input: dict[str, Any] | None = None
    input_order: dict[str, list[str]] | None = None
    output: list[Any] | None = None
    output_is_list: list[bool] | None = None
    output_name: list[str] | None = None
    output_tooltips: list[str | None] | None = None
    name: str | None = None
    display_name: str | None = None
    description: str | None = None
    python_module: Any = None
    category: str | None = None
    output_node: bool | None = None
    deprecated: bool | None = None
    experimental: bool | None = None
    api_node: bool | None = None
    later: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The entry itself."""
        entry: dict[str, Any] = asdict(self)
        later: dict[str, Any] = entry.pop("later")
        return entry | later


@dataclass
class NodeInfoV3:
    """A node's inputs and outputs by id, each with its kind and options."""

    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    hidden: list[str] | None = None
    name: str | None = None
    display_name: str | None = None
    description: str | None = None
    python_module: Any = None
    category: str | None = None
    output_node: bool | None = None
    deprecated: bool | None = None
    experimental: bool | None = None
    api_node: bool | None = None


def add_to_dict_v1(i: Input, d: dict[str, Any], *_: Any, **__: Any) -> None:
    """Put an input into the section of `{"required", "optional"}` that it belongs to."""
    for section, ports in sections([i]).items():
        if ports:
            d.setdefault(section, {}).update({name: tuple(port) for name, port in ports.items()})


def add_to_dict_v3(io: Input | Output, d: dict[str, Any]) -> None:
    """Put an input or output into `d` under its id."""
    d[str(io.id)] = (io.get_io_type(), {**io.as_dict(), **({"optional": True} if getattr(io, "optional", 0) else {})})


_LATER = ("search_aliases", "is_dev_only", "price_badge", "has_intermediate_output", "essentials_category")
_LATER_NAMES = {"is_dev_only": "dev_only"}


class Schema:
    """What a V3 node is. Fields as they are named; what later versions added is taken and told to the front end."""

    def __init__(
        self,
        node_id: str,
        display_name: str | None = None,
        category: str = "sd",
        inputs: Sequence[Input] | None = None,
        outputs: Sequence[Output] | None = None,
        hidden: Sequence[Hidden] | None = None,
        description: str = "",
        is_input_list: bool = False,
        is_output_node: bool = False,
        is_deprecated: bool = False,
        is_experimental: bool = False,
        is_api_node: bool = False,
        not_idempotent: bool = False,
        enable_expand: bool = False,
        **later: Any,
    ) -> None:
        self.node_id = node_id
        self.display_name = display_name
        self.category = category
        self.inputs: list[Input] = list(inputs or [])
        self.outputs: list[Output] = list(outputs or [])
        self.hidden: list[Hidden] = list(hidden or [])
        self.description = description
        self.is_input_list = is_input_list
        self.is_output_node = is_output_node
        self.is_deprecated = is_deprecated
        self.is_experimental = is_experimental
        self.is_api_node = is_api_node
        self.not_idempotent = not_idempotent
        self.enable_expand = enable_expand
        self.accept_all_inputs = bool(later.pop("accept_all_inputs", False))
        self.later = later

    def __getattr__(self, name: str) -> Any:
        later = self.__dict__.get("later", {})
        if name in later or name in _LATER:
            return later.get(name)
        raise AttributeError(f"Schema has no field {name!r}.")

    def finalize(self) -> None:
        """Fill in what follows: hidden values of output and api nodes, ids of outputs that have none."""
        wanted: list[Hidden] = []
        if self.is_api_node:
            wanted += [Hidden.auth_token_comfy_org, Hidden.api_key_comfy_org]
        if self.is_output_node:
            wanted += [Hidden.prompt, Hidden.extra_pnginfo]
        self.hidden = list(dict.fromkeys([*self.hidden, *wanted]))
        for place, output in enumerate(self.outputs):
            if output.id is None:
                output.id = f"_{place}_{output.io_type}_"

    def validate(self) -> None:
        """Raise ValueError when two inputs, or two outputs, share an id, or one of them cannot be.

        An input and an output may share one: the first version of this API refused that, packs of today rely on it.
        """
        everything: list[Any] = [*self.inputs, *self.outputs]
        ids = [str(one.id) for one in everything]
        for what, own in (("inputs", ids[: len(self.inputs)]), ("outputs", ids[len(self.inputs) :])):
            twice = [name for name, count in Counter(own).items() if count > 1]
            if twice:
                raise ValueError(f"{self.node_id}: the ids of {what} must be unique; {', '.join(twice)} come twice.")
        for one in everything:
            one.validate()

    def input_types(self, *, hidden: bool = True) -> dict[str, dict[str, Any]]:
        """The inputs as INPUT_TYPES tells them, tuples of kind and options; hidden ones as one-element tuples."""
        found: dict[str, dict[str, Any]] = {
            section: {name: (one.get_io_type(), options) for name, one, options in ports}
            for section, ports in self._by_section().items()
        }
        if hidden and self.hidden:
            found["hidden"] = {one.name: (one.value,) for one in self.hidden}
        return found

    def _by_section(self) -> dict[str, list[tuple[str, Input, dict[str, Any]]]]:
        found: dict[str, list[tuple[str, Input, dict[str, Any]]]] = {"required": []}
        for one in self.inputs:
            found.setdefault("optional" if one.optional else "required", []).append((one.id, one, one.as_dict()))
        return {name: found[name] for name in ("required", "optional") if name in found}

    def _about(self, cls: Any) -> dict[str, Any]:
        """What both forms of a description say beside inputs and outputs."""
        return {
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": getattr(cls, "RELATIVE_PYTHON_MODULE", None) or "nodes",
            "category": self.category,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "api_node": self.is_api_node,
        }

    def get_v1_info(self, cls: Any = None) -> NodeInfoV1:
        """The entry of /object_info. cls: the node class, for where it comes from."""
        inputs = {
            section: {name: list(port) for name, port in ports.items()} for section, ports in self.input_types().items()
        }
        later = {_LATER_NAMES.get(key, key): _told(value) for key, value in pruned(self.later).items() if key in _LATER}
        matches = [getattr(getattr(one, "template", None), "template_id", None) for one in self.outputs]
        if any(isinstance(one, MatchType.Output) for one in self.outputs):
            later["output_matchtypes"] = matches
        return NodeInfoV1(
            input=inputs,
            input_order={section: list(ports) for section, ports in inputs.items()},
            output=[one.get_io_type() for one in self.outputs],
            output_is_list=[one.is_output_list for one in self.outputs],
            output_name=[shown_name(one) for one in self.outputs],
            output_tooltips=[one.tooltip for one in self.outputs],
            **self._about(cls),
            later=later,
        )

    def get_v3_info(self, cls: Any = None) -> NodeInfoV3:
        """Inputs and outputs by id."""
        inputs: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        for one in self.inputs:
            add_to_dict_v3(one, inputs)
        for out in self.outputs:
            add_to_dict_v3(out, outputs)
        return NodeInfoV3(
            input=inputs,
            output=outputs,
            hidden=[one.value for one in self.hidden],
            **self._about(cls),
        )


def shown_name(output: Output) -> str:
    """The name of an output: its display name, or its kind."""
    kind = output.get_io_type()
    return output.display_name or (output.io_type if isinstance(kind, list) else str(kind))


def _told(value: Any) -> Any:
    as_dict = getattr(value, "as_dict", None)
    return as_dict() if callable(as_dict) else value
