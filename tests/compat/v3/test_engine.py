"""V3 classes in a running engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from limner.compat.v3 import io, ui
from limner.compat.v3.latest import ComfyAPI, ComfyAPISync
from limner.engine import PromptRejected
from limner.graph import Blocker
from tests.compat.v3.make import V3Source, node
from tests.engine.make import bench, call


def show(cls, value, **more):
    return io.NodeOutput(ui={"seen": [str(value), *(f"{name}={more[name]}" for name in sorted(more))]})


SHOW = node("Shown3", show, [io.AnyType.Input("value")], is_output_node=True)
NUMBER = node(
    "Number3", lambda cls, n: io.NodeOutput(n + 1), [io.Int.Input("n", default=1, min=0, max=9)], [io.Int.Output()]
)


async def seen(folder: Path, prompt: dict[str, Any], *classes: type[io.ComfyNode]) -> Any:
    """What the node `end` shows."""
    async with bench(folder, source=V3Source(SHOW, NUMBER, *classes)) as at:
        entry = await at.run(prompt)
        assert entry["status"]["completed"], entry["status"]
        return entry["outputs"]["end"]["seen"]


async def test_values_and_constants_pass_through_nodes(tmp_path: Path) -> None:
    prompt = {"1": call("Number3", n="3"), "end": call("Shown3", value=["1", 0])}
    assert await seen(tmp_path, prompt) == ["4"]


async def test_an_async_node_is_awaited(tmp_path: Path) -> None:
    # rule A1
    async def execute(cls, n):
        await asyncio.sleep(0)
        await ComfyAPI().execution.set_progress(1, 2)
        return io.NodeOutput(n * 2)

    late = node("Late3", execute, [io.Int.Input("n")], [io.Int.Output()])
    prompt = {"1": call("Late3", n=4), "end": call("Shown3", value=["1", 0])}
    assert await seen(tmp_path, prompt, late) == ["8"]


async def test_hidden_values_reach_the_class_and_stay_apart_from_inputs(tmp_path: Path) -> None:
    # rule H1
    def execute(cls, prompt):
        return io.NodeOutput((prompt, cls.hidden.unique_id, sorted(cls.hidden.prompt), cls.hidden.extra_pnginfo))

    who = node(
        "Who",
        execute,
        [io.String.Input("prompt")],
        [io.String.Output()],
        hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
    )
    prompt = {"5": call("Who", prompt="fox"), "end": call("Shown3", value=["5", 0])}
    assert await seen(tmp_path, prompt, who) == ["('fox', '5', ['5', 'end'], None)"]


async def test_a_value_outside_its_bounds_is_refused_and_a_choice_is_not_held_against_its_list(tmp_path: Path) -> None:
    # rule V10
    pick = node("Pick", lambda cls, c: io.NodeOutput(c), [io.Combo.Input("c", ["a"])], [io.String.Output()])
    assert await seen(tmp_path, {"1": call("Pick", c="zzz"), "end": call("Shown3", value=["1", 0])}, pick) == ["zzz"]


async def test_an_own_check_refuses_with_its_text_and_takes_over_the_bounds(tmp_path: Path) -> None:
    # rules V9, V11
    def validate(cls, n):
        return True if n == 99 else "only 99"

    odd = node(
        "Odd3",
        lambda cls, n: io.NodeOutput(n),
        [io.Int.Input("n", max=9)],
        [io.Int.Output()],
        {"validate_inputs": validate},
    )
    assert await seen(tmp_path, {"1": call("Odd3", n=99), "end": call("Shown3", value=["1", 0])}, odd) == ["99"]
    async with bench(tmp_path, source=V3Source(SHOW, odd)) as at:
        with pytest.raises(PromptRejected) as refused:
            await at.run({"1": call("Odd3", n=3), "end": call("Shown3", value=["1", 0])})
    error = refused.value.node_errors["1"]["errors"][0]
    assert (error["type"], error["details"]) == ("custom_validation_failed", "n - only 99")


async def test_a_fingerprint_that_stays_keeps_the_result_and_one_that_changes_does_not(tmp_path: Path) -> None:
    # rule I3
    runs: list[int] = []
    answers = iter([1, 1, 2])

    def execute(cls, n):
        runs.append(n)
        return io.NodeOutput(n)

    made = node(
        "Aged", execute, [io.Int.Input("n")], [io.Int.Output()], {"fingerprint_inputs": lambda cls, n: next(answers)}
    )
    prompt = {"1": call("Aged", n=1), "end": call("Shown3", value=["1", 0])}
    async with bench(tmp_path, source=V3Source(SHOW, made)) as at:
        for expected in (1, 1, 2):
            await at.run(prompt)
            assert len(runs) == expected


async def test_only_the_lazy_inputs_that_are_asked_for_run(tmp_path: Path) -> None:
    # rules L1, L5
    ran: list[str] = []

    def source(cls, name):
        ran.append(name)
        return io.NodeOutput(name)

    def check(cls, first, a, b):
        return ["a"] if first and a is None else ["b"] if not first and b is None else []

    say = node("Say3", source, [io.String.Input("name")], [io.String.Output()])
    either = node(
        "Either3",
        lambda cls, first, a, b: io.NodeOutput(a if first else b),
        [io.Boolean.Input("first"), io.String.Input("a", lazy=True), io.String.Input("b", lazy=True)],
        [io.String.Output()],
        {"check_lazy_status": check},
    )
    prompt = {
        "1": call("Say3", name="one"),
        "2": call("Say3", name="two"),
        "3": call("Either3", first=False, a=["1", 0], b=["2", 0]),
        "end": call("Shown3", value=["3", 0]),
    }
    assert await seen(tmp_path, prompt, say, either) == ["two"]
    assert ran == ["two"]


async def test_without_a_check_of_its_own_a_node_gets_every_lazy_input(tmp_path: Path) -> None:
    # rule L1
    both = node(
        "Both3",
        lambda cls, a, b: io.NodeOutput(a + b),
        [io.Int.Input("a", lazy=True), io.Int.Input("b", lazy=True)],
        [io.Int.Output()],
    )
    prompt = {
        "1": call("Number3", n=1),
        "2": call("Both3", a=["1", 0], b=["1", 0]),
        "end": call("Shown3", value=["2", 0]),
    }
    assert await seen(tmp_path, prompt, both) == ["4"]


async def test_lists_are_mapped_and_whole_lists_are_given_where_they_are_asked_for(tmp_path: Path) -> None:
    # rules M1, M3, M4
    many = node("Many3", lambda cls: io.NodeOutput([1, 2, 3]), [], [io.Int.Output(is_output_list=True)])
    total = node(
        "Total3",
        lambda cls, n: io.NodeOutput(f"{n} {cls.hidden.unique_id}"),
        [io.Int.Input("n")],
        [io.String.Output()],
        is_input_list=True,
        hidden=[io.Hidden.unique_id],
    )
    prompt = {
        "1": call("Many3"),
        "2": call("Number3", n=["1", 0]),
        "3": call("Total3", n=["2", 0]),
        "end": call("Shown3", value=["3", 0]),
    }
    assert await seen(tmp_path, prompt, many, total) == ["[2, 3, 4] 3"]


async def test_a_node_may_give_a_graph_in_its_place(tmp_path: Path) -> None:
    # rule G1
    def execute(cls, n):
        graph = {"x": {"class_type": "Number3", "inputs": {"n": n}}}
        return io.NodeOutput(["x", 0], expand=graph)

    grow = node("Grow3", execute, [io.Int.Input("n")], [io.Int.Output()], enable_expand=True)
    prompt = {"1": call("Grow3", n=4), "end": call("Shown3", value=["1", 0])}
    assert await seen(tmp_path, prompt, grow) == ["5"]


async def test_a_blocked_output_stops_what_depends_on_it(tmp_path: Path) -> None:
    # rules B1, B4
    stop = node("Stop3", lambda cls: Blocker(None), [], [io.Int.Output()])
    async with bench(tmp_path, source=V3Source(SHOW, stop)) as at:
        entry = await at.run({"1": call("Stop3"), "end": call("Shown3", value=["1", 0])})
    assert entry["status"]["completed"]
    assert entry["outputs"] == {}


async def test_growing_inputs_are_validated_and_run(tmp_path: Path) -> None:
    template = io.Autogrow.TemplatePrefix(io.Int.Input("n"), prefix="n", min=1, max=4)
    made = node(
        "Adds",
        lambda cls, ns: io.NodeOutput(sum(ns.values())),
        [io.Autogrow.Input("ns", template=template)],
        [io.Int.Output()],
    )
    prompt = {
        "1": call("Number3", n=1),
        "2": call("Adds", **{"ns.n0": ["1", 0], "ns.n1": "5"}),
        "end": call("Shown3", value=["2", 0]),
    }
    assert await seen(tmp_path, prompt, made) == ["7"]


async def test_progress_of_both_apis_is_sent_for_the_running_node(tmp_path: Path) -> None:
    # rules A3, P2
    async def execute(cls):
        await ComfyAPI().execution.set_progress(1, 4)
        ComfyAPISync().execution.set_progress(value=2, max_value=4)
        return io.NodeOutput(1)

    made = node("Slow3", execute, [], [io.Int.Output()])
    async with bench(tmp_path, source=V3Source(SHOW, made)) as at:
        await at.run({"1": call("Slow3"), "end": call("Shown3", value=["1", 0])})
        told = [(one["node"], one["value"], one["max"]) for one in at.data("progress")]
    assert ("1", 1, 4) in told
    assert ("1", 2, 4) in told


async def test_pictures_that_a_node_previews_are_shown_and_lie_in_temp(tmp_path: Path) -> None:
    # rules F3, F4
    import torch

    made = node(
        "Look",
        lambda cls: io.NodeOutput(ui=ui.PreviewImage(torch.full((2, 8, 6, 3), 0.5), cls=cls)),
        is_output_node=True,
    )
    async with bench(tmp_path, source=V3Source(made)) as at:
        entry = await at.run({"1": call("Look")})
        images = entry["outputs"]["1"]["images"]
        assert all((tmp_path / "temp" / one["filename"]).is_file() for one in images)
    assert entry["outputs"]["1"]["animated"] == [False]
    assert [one["type"] for one in images] == ["temp", "temp"]


async def test_an_error_report_has_the_inputs_and_no_hidden_value(tmp_path: Path) -> None:
    # rules R1, Z6
    seen: list[Any] = []

    def execute(cls, n):
        seen.append(cls.hidden.auth_token_comfy_org)
        raise ValueError("broken")

    made = node("Broken3", execute, [io.Int.Input("n")], is_output_node=True, hidden=[io.Hidden.auth_token_comfy_org])
    async with bench(tmp_path, source=V3Source(made)) as at:
        entry = await at.run({"1": call("Broken3", n=4)}, extra_data={"auth_token_comfy_org": "hush"})
    assert seen == ["hush"]
    report = entry["status"]["messages"][-1][1]
    assert report["current_inputs"] == {"n": [4]}
    assert "hush" not in str(entry)


def test_a_secret_that_a_v1_node_was_given_is_not_shown() -> None:
    from limner.engine.executors.failures import shown_inputs
    from limner.engine.secrets import secret

    assert shown_inputs({"token": [secret("hush")], "n": [1]}) == {"token": ["(secret)"], "n": [1]}
    assert secret("hush") == "hush"
