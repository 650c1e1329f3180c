"""ComfyNode, the base of V3 nodes, and NodeOutput, what they give back."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar

from limner.compat.v3.internal import classproperty, first_real_override, locked_clone
from limner.compat.v3.resources import Resources, ResourcesLocal
from limner.compat.v3.schema import HiddenHolder, Schema, shown_name
from limner.graph import Blocker


class NodeOutput:
    """What a node gives: a value an output, what to show, a graph to run in its place, or why it gives nothing.

    ui: an object of `ui` or a dict. expand: `{id: {"class_type", "inputs"}}`; the values may be links into it.
    block_execution: a message; what depends on the outputs does not run.
    """

    def __init__(
        self,
        *args: Any,
        ui: Any = None,
        expand: Mapping[str, Any] | None = None,
        block_execution: str | None = None,
        **later: Any,
    ) -> None:
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution
        self.later = later

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The values; None when there are none."""
        return self.args or None

    def __getitem__(self, index: Any) -> Any:
        return self.args[index]

    def __len__(self) -> int:
        return len(self.args)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NodeOutput:
        """From the dict that older nodes return: `ui`, `result`, `expand`."""
        result = data.get("result", ())
        if isinstance(result, Blocker):
            return cls(ui=data.get("ui"), expand=data.get("expand"), block_execution=result.message or "")
        values = () if result is None else tuple(result) if isinstance(result, (tuple, list)) else (result,)
        return cls(*values, ui=data.get("ui"), expand=data.get("expand"))


class ComfyNode:
    """A V3 node: `define_schema` says what it is, `execute` does it. Both are class methods; a node has no state."""

    RELATIVE_PYTHON_MODULE: Any = None
    SCHEMA: ClassVar[Schema | None] = None
    hidden: ClassVar[HiddenHolder] = HiddenHolder()
    resources: ClassVar[Resources] = ResourcesLocal()
    local_resources: ClassVar[ResourcesLocal] = ResourcesLocal()

    @classmethod
    def define_schema(cls) -> Schema:
        """What the node is. Every node has its own."""
        raise NotImplementedError(f"{cls.__name__} does not say what it is: it has no define_schema.")

    @classmethod
    def execute(cls, **kwargs: Any) -> Any:
        """The node's work; may be async. Every node has its own."""
        raise NotImplementedError(f"{cls.__name__} does nothing: it has no execute.")

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> Any:
        """True, or a text that says what is wrong. Overriding it turns off the ordinary checks of the named inputs."""
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> Any:
        """Whatever differs when a kept result is stale."""
        raise NotImplementedError

    @classmethod
    def check_lazy_status(cls, **kwargs: Any) -> Any:
        """Names of the lazy inputs that are needed: unless a node knows better, all that are not there."""
        return [name for name, value in kwargs.items() if value is None or value == (None,)]

    @classmethod
    def GET_SCHEMA(cls) -> Schema:  # noqa: N802
        """The schema, finalized and validated, made anew."""
        cls.VALIDATE_CLASS()
        return cls.FINALIZE_SCHEMA()

    @classmethod
    def FINALIZE_SCHEMA(cls) -> Schema:  # noqa: N802
        """The schema, finalized and validated."""
        schema = cls.define_schema()
        if not isinstance(schema, Schema):
            raise TypeError(f"{cls.__name__}.define_schema gave {type(schema).__name__}, not a Schema.")
        schema.finalize()
        schema.validate()
        return schema

    @classmethod
    def VALIDATE_CLASS(cls) -> None:  # noqa: N802
        """Raise an Exception when the class lacks one of the two methods that every node has."""
        for name in ("define_schema", "execute"):
            if first_real_override(cls, name, base=ComfyNode) is None:
                raise Exception(f"No {name} function was defined for node class {cls.__name__}.")

    @classmethod
    def GET_BASE_CLASS(cls) -> Any:  # noqa: N802
        """ComfyNode."""
        return ComfyNode

    @classmethod
    def PREPARE_CLASS_CLONE(cls, v3_data: Mapping[str, Any] | None = None) -> Any:  # noqa: N802
        """A clone of the class that cannot be changed and carries the hidden values of one call (rule M8)."""
        hidden = (v3_data or {}).get("hidden_inputs") or (v3_data or {}).get("hidden")
        holder = hidden if isinstance(hidden, HiddenHolder) else HiddenHolder.from_dict(hidden)
        return locked_clone(cls, {"hidden": holder})

    @classmethod
    def EXECUTE_NORMALIZED(cls, *args: Any, **kwargs: Any) -> NodeOutput:  # noqa: N802
        """`execute`, whatever it returns made a NodeOutput."""
        return normalized(cls.execute(*args, **kwargs), cls)

    @classmethod
    async def EXECUTE_NORMALIZED_ASYNC(cls, *args: Any, **kwargs: Any) -> NodeOutput:  # noqa: N802
        """`execute` awaited, whatever it gives made a NodeOutput."""
        found = cls.execute(*args, **kwargs)
        return normalized(await found if inspect.isawaitable(found) else found, cls)

    @classmethod
    def INPUT_TYPES(cls, include_hidden: bool = True, return_schema: bool = False, **_: Any) -> Any:  # noqa: N802
        """The inputs in V1's form; with the schema beside them when it is asked for."""
        schema = cls.FINALIZE_SCHEMA()
        types = schema.input_types(hidden=include_hidden)
        return (types, schema) if return_schema else types

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:  # noqa: N802
        """The entry of /object_info."""
        return cls.GET_SCHEMA().get_v1_info(cls).as_dict()

    @classmethod
    def GET_NODE_INFO_V3(cls) -> dict[str, Any]:  # noqa: N802
        """Inputs and outputs by id."""
        return dict(vars(cls.GET_SCHEMA().get_v3_info(cls)))

    @classproperty
    def FUNCTION(cls) -> str:  # noqa: N802, N805
        """The name of the method that is called."""
        return "EXECUTE_NORMALIZED_ASYNC" if inspect.iscoroutinefunction(cls.execute) else "EXECUTE_NORMALIZED"

    @classproperty
    def RETURN_TYPES(cls) -> list[Any]:  # noqa: N802, N805
        """The kinds of the outputs."""
        return [one.get_io_type() for one in cls._told().outputs]

    @classproperty
    def RETURN_NAMES(cls) -> list[str]:  # noqa: N802, N805
        """The names of the outputs."""
        return [shown_name(one) for one in cls._told().outputs]

    @classproperty
    def OUTPUT_IS_LIST(cls) -> list[bool]:  # noqa: N802, N805
        """Which outputs are lists."""
        return [one.is_output_list for one in cls._told().outputs]

    @classproperty
    def OUTPUT_TOOLTIPS(cls) -> list[str | None]:  # noqa: N802, N805
        """What is said of each output."""
        return [one.tooltip for one in cls._told().outputs]

    @classproperty
    def INPUT_IS_LIST(cls) -> bool:  # noqa: N802, N805
        """Whether one call gets the whole lists."""
        return bool(cls._told().is_input_list)

    @classproperty
    def OUTPUT_NODE(cls) -> bool:  # noqa: N802, N805
        """Whether prompts run because of it."""
        return bool(cls._told().is_output_node)

    @classproperty
    def CATEGORY(cls) -> str:  # noqa: N802, N805
        """Where menus show it."""
        return str(cls._told().category)

    @classproperty
    def DESCRIPTION(cls) -> str:  # noqa: N802, N805
        """What it does."""
        return str(cls._told().description)

    @classproperty
    def DEPRECATED(cls) -> bool:  # noqa: N802, N805
        """Whether it should no longer be used."""
        return bool(cls._told().is_deprecated)

    @classproperty
    def EXPERIMENTAL(cls) -> bool:  # noqa: N802, N805
        """Whether it may still change."""
        return bool(cls._told().is_experimental)

    @classproperty
    def API_NODE(cls) -> bool:  # noqa: N802, N805
        """Whether it asks a paid service."""
        return bool(cls._told().is_api_node)

    @classproperty
    def NOT_IDEMPOTENT(cls) -> bool:  # noqa: N802, N805
        """Whether equal inputs of two nodes must not share a result."""
        return bool(cls._told().not_idempotent)

    @classproperty
    def ACCEPT_ALL_INPUTS(cls) -> bool:  # noqa: N802, N805
        """Whether it also gets inputs that its schema does not name."""
        return bool(cls._told().accept_all_inputs)

    @classmethod
    def _told(cls) -> Schema:
        """The schema of a property; anew each time, for choices may change."""
        return cls.FINALIZE_SCHEMA()


def normalized(found: Any, cls: Any) -> NodeOutput:
    """A NodeOutput of what `execute` returned: that itself, nothing, a tuple, V1's dict, or a blocker.

    Raises an Exception for anything else, and for a graph from a node that does not say `enable_expand`.
    """
    if isinstance(found, NodeOutput):
        output = found
    elif found is None:
        output = NodeOutput()
    elif isinstance(found, tuple):
        output = NodeOutput(*found)
    elif isinstance(found, dict):
        output = NodeOutput.from_dict(found)
    elif isinstance(found, Blocker):
        output = NodeOutput(block_execution=found.message or "")
    else:
        raise Exception(f"Invalid return type from node: {type(found)}")
    if output.expand is not None and not cls.FINALIZE_SCHEMA().enable_expand:
        raise Exception(f"Node {cls.__name__} is not expandable, but expand was given; say enable_expand=True.")
    return output


class ComfyExtension:
    """What a pack gives: its node classes, and what to do once when it is loaded."""

    async def on_load(self) -> None:
        """Called once before the nodes are asked for."""

    def get_node_list(self) -> Awaitable[list[type[ComfyNode]]]:
        """The node classes. Every extension has its own (async)."""
        raise NotImplementedError(f"{type(self).__name__} does not say which nodes it has.")
