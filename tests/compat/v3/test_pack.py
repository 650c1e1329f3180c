"""A pack of V3 classes, loaded as packs are: found, described, kept, and run."""

from __future__ import annotations

from typing import Any

import torch

PACK = """
from comfy_api.latest import ComfyExtension, io

class Doubles(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Doubles", display_name="Double", category="maths",
                         inputs=[io.Int.Input("n", default=1)], outputs=[io.Int.Output(display_name="twice")])

    @classmethod
    def execute(cls, n) -> io.NodeOutput:
        return io.NodeOutput(2 * n)

class Any(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="AnyThing", inputs=[io.AnyType.Input("x")], outputs=[io.AnyType.Output()])

    @classmethod
    def execute(cls, x):
        return (x,)

class Pack(ComfyExtension):
    async def on_load(self):
        self.loaded = True

    async def get_node_list(self):
        assert self.loaded
        return [Doubles, Any]

async def comfy_entrypoint():
    return Pack()
"""


def called(packs: Any, kind: str, **given: Any) -> Any:
    source = packs.source
    return source.function(kind, source.make(kind))(**given).values


def test_a_pack_with_an_entrypoint_is_loaded_described_and_run(place) -> None:
    place.pack("fox", PACK)
    packs = place.load()
    assert [report.state for report in packs.reports] == ["loaded"]
    assert list(packs.source.kinds()) == ["Doubles", "AnyThing"]
    entry = packs.source.describe("Doubles")
    assert (entry["display_name"], entry["python_module"], entry["category"]) == ("Double", "custom_nodes.fox", "maths")
    assert called(packs, "Doubles", n=4) == (8,)


def test_a_described_pack_runs_as_one_that_was_imported(place) -> None:
    place.pack("fox", PACK)
    first = place.load(cache=True)
    schema, entry = first.source.schema("Doubles"), first.source.describe("Doubles")
    place.compat.close()
    packs = place.load(cache=True)
    assert packs.source.describe("Doubles") == entry
    assert packs.source.schema("Doubles") == schema
    assert called(packs, "Doubles", n=4) == (8,)
    assert called(packs, "AnyThing", x="a") == ("a",)


def test_v3_classes_may_be_listed_as_v1_classes_are(place) -> None:
    place.pack("fox", PACK + "\nNODE_CLASS_MAPPINGS = {'Twice': Doubles}\n")
    packs = place.load()
    assert list(packs.source.kinds()) == ["Twice"]
    assert packs.source.describe("Twice")["name"] == "Twice"
    assert called(packs, "Twice", n=2) == (4,)


def test_a_broken_schema_is_told_and_leaves_the_rest(place) -> None:
    place.pack("fox", PACK.replace('io.Int.Input("n", default=1)', 'io.Int.Input("n"), io.Int.Input("n")'))
    packs = place.load()
    (report,) = packs.reports
    assert any("Doubles" in problem.text() or "unique" in problem.text() for problem in report.problems)


HALF_WAY = """
from types import SimpleNamespace
from comfy_api.latest import ComfyExtension

class Old:
    RETURN_TYPES = ("INT",)
    FUNCTION = "add"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"n": ("INT", {"default": 1})}}

    def add(self, n):
        return (n + 1,)

Old.GET_SCHEMA = lambda: SimpleNamespace(node_id="OldNode", display_name="Old one")

class Pack(ComfyExtension):
    async def get_node_list(self):
        return [Old]

async def comfy_entrypoint():
    return Pack()
"""


def test_an_extension_may_list_v1_classes_that_tell_their_id(place) -> None:
    place.pack("half", HALF_WAY)
    packs = place.load()
    assert [report.state for report in packs.reports] == ["loaded"]
    assert packs.source.describe("OldNode")["display_name"] == "Old one"
    assert called(packs, "OldNode", n=4) == (5,)


BORROWS = """
import comfy_extras.nodes_hooks

class Borrows(comfy_extras.nodes_hooks.CreateHookModelAsLora):
    FUNCTION = "borrow"

    def borrow(self):
        return (hasattr(self, "create_hook"), hasattr(comfy_extras.nodes_hooks.SetClipHooks, "apply_hooks"))

NODE_CLASS_MAPPINGS = {"Borrows": Borrows}
"""


def test_packs_call_the_methods_of_the_hook_nodes_by_name(place) -> None:
    place.pack("borrows", BORROWS)
    packs = place.load()
    made = packs.source.make("Borrows")
    assert made.borrow() == (True, True)


LENDS = """
import nodes

class Lends:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "lend"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def lend(self, image):
        return nodes.ImageInvert.invert(self, image)

NODE_CLASS_MAPPINGS = {"Lends": Lends}
"""


def test_packs_call_a_builtin_method_on_a_node_of_their_own(place) -> None:
    place.pack("lends", LENDS)
    packs = place.load()
    (inverted,) = called(packs, "Lends", image=torch.zeros(1, 2, 2, 3))
    assert torch.equal(inverted, torch.ones(1, 2, 2, 3))
