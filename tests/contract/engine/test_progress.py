"""Rules P: how far nodes are, and pictures of work in progress."""

from io import BytesIO

import pytest
from PIL import Image

from limner.engine.previews import encode_preview
from limner.graph import CURRENT_RUN
from tests.contract.engine import classes
from tests.contract.engine.make import call, engine, out


class Steps(classes.Node):
    def go(self, text):
        run = CURRENT_RUN.get()
        for i in range(3):
            run.progress(i + 1, 3, Image.new("RGB", (8, 4)) if text == "show" else None)
        return (text,)


class Reports(classes.Node):
    """Reports for another node, as ProgressBar(total, node_id) may."""

    def go(self, text):
        run = CURRENT_RUN.get()
        run.sink.progress("9", 1, 4)
        return (text,)


class GrowsSteps(classes.Node):
    def go(self, text):
        at = classes.prefix()
        return {"result": ([at + "s", 0],), "expand": {at + "s": classes.made("StepsOf", text="show")}}


class StepsOf(Steps):
    """Another name: there is a built-in Steps among the tests' nodes."""


async def test_states_are_cumulative_few_and_complete_at_the_end(tmp_path):
    """Rule P1: running 0/1 at the start, value = max at the end; coalesced, and the last one has everything."""
    async with engine(tmp_path, StepsOf) as b:
        raw = {str(i): call("Trim", string=[str(i - 1), 0] if i else "x", mode="Both") for i in range(500)}
        await b.run(raw | {"s": call("StepsOf", text=["499", 0]), "end": out("s")})
        states = [d["nodes"] for d in b.data("progress_state")]
        assert 1 <= len(states) < 20
        assert len(states[-1]) == 502
        assert {one["state"] for one in states[-1].values()} == {"finished"}
        assert (states[-1]["s"]["value"], states[-1]["s"]["max"]) == (3, 3)
        assert (states[-1]["0"]["value"], states[-1]["0"]["max"]) == (1, 1)


async def test_an_update_sends_preview_and_progress_in_order(tmp_path):
    """Rule P2: and progress_state with it, coalesced."""
    async with engine(tmp_path, StepsOf, Reports) as b:
        await b.run({"1": call("StepsOf", text="show"), "2": out("1")})
        assert [kind for kind in b.types() if kind in ("preview", "progress")] == ["preview", "progress"] * 3
        assert [(d["value"], d["max"], d["node"]) for d in b.data("progress")] == [
            (1, 3, "1"),
            (2, 3, "1"),
            (3, 3, "1"),
        ]
        await b.run({"1": call("Reports", text="x"), "2": out("1"), "9": call("Plain", text="unused")})
        assert [(d["value"], d["node"]) for d in b.data("progress")] == [(1, "9")]


async def test_a_preview_inside_a_graph_says_whose_it_is(tmp_path):
    """Rules P2, G4."""
    async with engine(tmp_path, StepsOf, GrowsSteps) as b:
        await b.run({"1": call("GrowsSteps", text="x"), "2": out("1")})
        preview = next(event for event in b.events if event.type == "preview").data()
        assert preview["node_id"] == "1.0.0.s"
        assert (preview["display_node_id"], preview["parent_node_id"], preview["real_node_id"]) == ("1", "1", "1")


def test_previews_are_jpegs_that_fit_the_largest_side():
    """Rule P3: 512 by default; methods are the samplers' business (tests/sampling)."""
    data, kind = encode_preview(Image.new("RGBA", (2048, 1024)))
    assert kind == "image/jpeg"
    assert Image.open(BytesIO(data)).size == (512, 256)
    assert Image.open(BytesIO(encode_preview(Image.new("RGB", (8, 8)), 64)[0])).size == (64, 64)


@pytest.mark.parametrize(("given", "kind", "size"), [("PNG", "image/png", 16), ("JPEG", "image/jpeg", None)])
def test_a_preview_of_packs_is_format_picture_and_side(given, kind, size):
    """Rule P4: side None leaves the size as it is."""
    data, found = encode_preview((given, Image.new("RGB", (40, 20)), size))
    assert found == kind
    assert Image.open(BytesIO(data)).size == ((16, 8) if size else (40, 20))
