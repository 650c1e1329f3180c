"""Calling V3 classes: forms of results, locked clones, hidden values."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from limner.compat.sources.v3 import V3Class, extension_classes, is_v3
from limner.compat.v3 import io, ui
from limner.compat.v3.node import ComfyExtension
from limner.errors import BadInput
from limner.graph import Blocker, NodeResult
from tests.compat.v3.make import node

TWO = [io.Int.Output(display_name="a"), io.Int.Output(display_name="b")]


def called(cls: type[io.ComfyNode], **given: Any) -> NodeResult:
    adapter = V3Class(cls)
    return adapter.function(adapter.make())(**given)


FORMS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "NodeOutput": (io.NodeOutput(1, 2), (1, 2)),
    "tuple": ((1, 2), (1, 2)),
    "nothing": (None, (None, None)),
    "too few": (io.NodeOutput(1), (1, None)),
    "dict": ({"result": (1, 2)}, (1, 2)),
}


@pytest.mark.parametrize(("given", "values"), FORMS.values(), ids=FORMS)
def test_every_form_of_a_result_becomes_values(given: Any, values: tuple[Any, ...]) -> None:
    assert called(node("N", lambda cls: given, outputs=TWO)).values == values


def test_a_dict_carries_ui_and_a_graph() -> None:
    graph = {"n": {"class_type": "X", "inputs": {}}}
    made = node(
        "N", lambda cls: {"ui": {"text": ["a"]}, "expand": graph, "result": (["n", 0], 2)}, [], TWO, enable_expand=True
    )
    result = called(made)
    assert (result.values, result.ui, result.expansion) == ((["n", 0], 2), {"text": ["a"]}, graph)


@pytest.mark.parametrize("given", [[1, 2], 3, "text", object()])
def test_any_other_result_is_an_error_that_names_its_type(given: Any) -> None:
    with pytest.raises(Exception, match="Invalid return type from node"):
        called(node("N", lambda cls: given, outputs=TWO))


def test_a_graph_needs_enable_expand() -> None:
    # rule G1
    graph = {"1": {"class_type": "X", "inputs": {}}}
    give = lambda cls: io.NodeOutput(["1", 0], expand=graph)  # noqa: E731
    with pytest.raises(Exception, match="expand"):
        called(node("N", give, outputs=TWO[:1]))
    assert called(node("N", give, outputs=TWO[:1], enable_expand=True)).expansion == graph


def test_a_blocker_blocks_every_output_with_its_message() -> None:
    # rule B1
    for given in (Blocker("no fox"), io.NodeOutput(1, 2, block_execution="no fox")):
        values = called(node("N", lambda cls, given=given: given, outputs=TWO)).values
        assert [value.message for value in values] == ["no fox", "no fox"]


def test_a_blocker_among_the_values_stays_there() -> None:
    values = called(node("N", lambda cls: io.NodeOutput(1, Blocker(None)), outputs=TWO)).values
    assert values[0] == 1
    assert isinstance(values[1], Blocker)


def test_ui_objects_are_shown_as_their_dict() -> None:
    result = called(node("N", lambda cls: io.NodeOutput(1, ui=ui.PreviewText("hi")), outputs=TWO[:1]))
    assert (result.values, result.ui) == ((1,), {"text": ["hi"]})


def test_a_node_output_is_read_like_a_tuple() -> None:
    output = io.NodeOutput(1, 2, ui={"text": []})
    assert (output[0], output[1], output.args, output.result, len(output)) == (1, 2, (1, 2), (1, 2), 2)
    assert io.NodeOutput().result is None


def test_an_async_execute_gives_an_awaitable_of_a_result() -> None:
    async def execute(cls, a):
        await asyncio.sleep(0)
        return io.NodeOutput(a + 1)

    made = node("N", execute, [io.Int.Input("a")], TWO[:1])
    assert asyncio.run(called(made, a=1)).values == (2,)
    assert V3Class(made).schema().asynchronous


def test_each_call_gets_a_fresh_clone_that_cannot_be_changed() -> None:
    # rule M8
    seen: list[Any] = []

    def execute(cls):
        seen.append(cls)
        with pytest.raises(AttributeError, match="state"):
            cls.state = 1
        with pytest.raises(AttributeError):
            del cls.hidden
        return io.NodeOutput()

    made = node("N", execute)
    call = V3Class(made).function(made)
    call()
    call()
    assert seen[0] is not seen[1]
    assert all(issubclass(one, made) and one is not made for one in seen)
    assert seen[0].__name__ == "N"
    made.after = 1  # the class of the pack itself is not locked


def test_hidden_values_are_on_the_class_and_others_are_none() -> None:
    def execute(cls, prompt):
        hidden = cls.hidden
        return io.NodeOutput((prompt, hidden.unique_id, hidden.prompt, hidden.dynprompt, hidden.never_heard_of))

    made = node("N", execute, [io.String.Input("prompt")], TWO[:1], hidden=[io.Hidden.unique_id], is_output_node=True)
    schema = V3Class(made).schema()
    assert sorted(schema.hidden.values()) == ["EXTRA_PNGINFO", "PROMPT", "UNIQUE_ID"]
    assert not set(schema.hidden) & {port.name for port in schema.inputs}, "an input may have a hidden value's name"
    markers = {marker: name for name, marker in schema.hidden.items()}
    given = {markers["UNIQUE_ID"]: "7", markers["PROMPT"]: {"1": {}}, markers["EXTRA_PNGINFO"]: None}
    assert called(made, prompt="a fox", **given).values == (("a fox", "7", {"1": {}}, None, None),)


def test_v1_callers_get_a_node_output_by_the_name_of_the_function() -> None:
    made = node("N", lambda cls, a: (a,), [io.Int.Input("a")], TWO[:1])
    assert getattr(made, made.FUNCTION)(a=3)[0] == 3
    assert made.execute(a=3) == (3,)


def test_the_kind_is_the_node_id_unless_it_is_listed_under_another_name() -> None:
    made = node("N", lambda cls: None, display_name="Title")
    assert (V3Class(made).kind, V3Class(made).title, V3Class(made, "Other").kind) == ("N", "Title", "Other")
    assert V3Class(made, "Other", "custom_nodes.pack").describe()["name"] == "Other"
    made.RELATIVE_PYTHON_MODULE = "custom_nodes.fox"
    assert V3Class(made).describe()["python_module"] == V3Class(made).schema().python_module == "custom_nodes.fox"
    assert is_v3(made)
    assert not is_v3(object)


class Pack:
    __name__ = "pack"


def extension(listed: Any, loads: list[str] | None = None) -> ComfyExtension:
    class Mine(ComfyExtension):
        async def on_load(self):
            (loads if loads is not None else []).append("loaded")

        async def get_node_list(self):
            return listed

    return Mine()


def test_an_entrypoint_may_be_async_and_is_loaded_once_before_its_nodes() -> None:
    made, loads, pack = node("N", lambda cls: None), [], Pack()

    async def entry():
        return extension([made], loads)

    for point in (entry, lambda: extension([made], loads)):
        pack.comfy_entrypoint = point
        assert asyncio.run(extension_classes(pack)) == [made]
    assert loads == ["loaded", "loaded"]


@pytest.mark.parametrize("wrong", [object(), [object], "text"])
def test_an_extension_without_classes_is_refused(wrong: Any) -> None:
    pack = Pack()
    pack.comfy_entrypoint = lambda: wrong if not isinstance(wrong, list) else extension(wrong)
    with pytest.raises(BadInput):
        asyncio.run(extension_classes(pack))
