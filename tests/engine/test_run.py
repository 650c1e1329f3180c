"""What one run tells and leaves, against the observed order of routes.md and the rules M, X, C, I, L, B, R, H."""

import asyncio

import pytest

from tests.engine import nodes
from tests.engine.make import bench, call, say_and_show, trims


async def test_events_come_in_the_observed_order(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(say_and_show())
        assert b.types() == [
            "status",
            "status",
            "execution_start",
            "execution_cached",
            "executing",
            "executing",
            "executed",
            "execution_success",
            "status",
            "executing",
        ]
        assert [d["status"]["exec_info"]["queue_remaining"] for d in b.data("status")] == [1, 1, 0]
        assert [d["node"] for d in b.data("executing")] == ["1", "2", None]


async def test_the_last_progress_state_comes_before_success_and_says_all_is_finished(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(say_and_show())
        kinds = [event.type for event in b.events]
        assert kinds.index("execution_success") > max(i for i, kind in enumerate(kinds) if kind == "progress_state")
        last = b.data("progress_state")[-1]["nodes"]
        assert {node: (n["state"], n["value"], n["max"]) for node, n in last.items()} == {
            "1": ("finished", 1, 1),
            "2": ("finished", 1, 1),
        }
        assert last["2"]["display_node_id"] == last["2"]["real_node_id"] == "2"


async def test_a_fully_cached_run_executes_nothing_c10(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(say_and_show())
        entry = await b.run(say_and_show())
        assert b.types() == [
            "status",
            "status",
            "execution_start",
            "execution_cached",
            "executed",
            "execution_success",
            "status",
            "executing",
        ]
        assert b.data("execution_cached")[0]["nodes"] == ["1", "2"]
        assert b.data("progress_state")[-1]["nodes"]["2"]["state"] == "finished"
        assert set(b.data("progress_state")[-1]["nodes"]) == {"2"}
        assert nodes.calls == []
        assert entry["outputs"] == {"2": {"text": ["hi"]}}


async def test_without_a_client_only_what_is_for_all_is_sent(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(say_and_show(), client_id=None)
        assert set(b.types()) == {"status"}
        assert b.data("progress_state")


async def test_cached_outputs_are_in_the_history_without_a_client_too_c11(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(say_and_show(), client_id=None)
        entry = await b.run(say_and_show(), client_id=None)
        assert entry["outputs"] == {"2": {"text": ["hi"]}}
        assert entry["meta"]["2"] == {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}


async def test_a_history_entry(tmp_path):
    async with bench(tmp_path) as b:
        entry = await b.run(say_and_show(), extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}})
        number, prompt_id, prompt, extra, outputs = entry["prompt"]
        assert (number, prompt, outputs) == (0, say_and_show(), ["2"])
        assert extra["client_id"] == "me"
        assert isinstance(extra["create_time"], int)
        assert entry["status"]["status_str"] == "success"
        assert entry["status"]["completed"] is True
        messages = entry["status"]["messages"]
        assert [kind for kind, _ in messages] == ["execution_start", "execution_cached", "execution_success"]
        assert all(isinstance(d["timestamp"], int) and d["prompt_id"] == prompt_id for _, d in messages)


async def test_converted_values_are_in_the_history_v8(tmp_path):
    async with bench(tmp_path) as b:
        entry = await b.run({"1": call("Add", a="3"), "2": call("Show", source=["1", 0])})
        assert entry["prompt"][2]["1"]["inputs"] == {"a": 3}
        assert entry["outputs"]["2"] == {"text": ["4"]}


async def test_two_outputs_are_told_apart_by_place(tmp_path):
    async with bench(tmp_path) as b:
        entry = await b.run({"1": call("Two"), "2": call("Show", source=["1", 1]), "3": call("Show", source=["1", 0])})
        assert (entry["outputs"]["2"], entry["outputs"]["3"]) == ({"text": ["2"]}, {"text": ["1"]})


async def test_a_list_output_is_mapped_over_m1_m2_m7(tmp_path):
    async with bench(tmp_path) as b:
        raw = {"1": call("Numbers", count=3), "2": call("Add", a=["1", 0], b=10), "3": call("Show", source=["2", 0])}
        entry = await b.run(raw)
        assert entry["outputs"]["3"] == {"text": ["10", "11", "12"]}


async def test_shorter_lists_repeat_their_last_m2(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(
            {
                "1": call("Numbers", count=3),
                "2": call("Numbers", count=2),
                "3": call("Add", a=["1", 0], b=["2", 0]),
                "4": call("Show", source=["3", 0]),
            }
        )
        assert [args for kind, args in nodes.calls if kind == "Add"] == [(0, 0), (1, 1), (2, 1)]


async def test_a_node_that_takes_lists_is_called_once_m4(tmp_path):
    async with bench(tmp_path) as b:
        raw = {"1": call("Numbers", count=4), "2": call("Sum", values=["1", 0]), "3": call("Show", source=["2", 0])}
        assert (await b.run(raw))["outputs"]["3"] == {"text": ["6"]}
        raw["2"]["inputs"]["values"] = 9
        assert (await b.run(raw))["outputs"]["3"] == {"text": ["9"]}


async def test_only_empty_lists_are_a_call_without_arguments_m6(tmp_path):
    async with bench(tmp_path) as b:
        raw = {"1": call("Numbers", count=0), "2": call("Say", text=["3", 0]), "3": call("Show", source=["1", 0])}
        entry = await b.run({"1": raw["1"], "3": raw["3"]})
        assert entry["status"]["messages"][-1][1]["exception_type"] == "TypeError"


async def test_some_empty_lists_are_an_index_error_m6(tmp_path):
    async with bench(tmp_path) as b:
        raw = {"1": call("Numbers", count=0), "2": call("Add", a=["1", 0], b=1), "3": call("Show", source=["2", 0])}
        error = (await b.run(raw))["status"]["messages"][-1][1]
        assert (error["exception_type"], error["exception_message"]) == ("IndexError", "list index out of range\n")


async def test_two_nodes_of_one_signature_run_once_x5(tmp_path):
    async with bench(tmp_path) as b:
        raw = {
            "1": call("Say", text="x"),
            "2": call("Say", text="x"),
            "8": call("Show", source=["1", 0]),
            "9": call("Show", source=["2", 0]),
        }
        entry = await b.run(raw)
        assert [kind for kind, _ in nodes.calls] == ["Say", "Show"]
        assert entry["outputs"]["8"] == entry["outputs"]["9"]
        assert len({entry["meta"][node]["node_id"] for node in ("8", "9")}) == 1
        assert None in [d["output"] for d in b.data("executed")]


async def test_classic_forgets_what_the_next_prompt_does_not_use_c5(tmp_path):
    async with bench(tmp_path) as b:
        for text, called in (("a", 2), ("b", 2), ("a", 2)):
            await b.run(say_and_show(text))
            assert len(nodes.calls) == called


async def test_lru_keeps_earlier_prompts_c6(tmp_path):
    async with bench(tmp_path, cache_lru=10) as b:
        for text, called in (("a", 2), ("b", 2), ("a", 0)):
            await b.run(say_and_show(text))
            assert len(nodes.calls) == called


async def test_no_cache_keeps_nothing_c7(tmp_path):
    async with bench(tmp_path, cache_none=True) as b:
        for _ in range(2):
            await b.run(say_and_show())
            assert len(nodes.calls) == 2
            assert b.data("execution_cached")[0]["nodes"] == []


async def test_freeing_memory_forgets_results_c12(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(say_and_show())
        b.engine.free(unload_models=True, free_memory=True)
        await b.run({"9": call("Show", source=["8", 0]), "8": call("Say", text="other")})
        await b.run(say_and_show())
        assert len(nodes.calls) == 2


async def test_a_constant_fingerprint_is_cached_and_nan_runs_again_i3(tmp_path):
    async with bench(tmp_path) as b:
        for text, again in (("calm", []), ("always", [("Stamp", "always"), ("Show", "always")])):
            raw = {"1": call("Stamp", text=text), "2": call("Show", source=["1", 0])}
            await b.run(raw)
            await b.run(raw)
            assert nodes.calls == again


async def test_a_failing_fingerprint_runs_again_i3(tmp_path):
    async with bench(tmp_path) as b:
        raw = {"0": call("Say", text="t"), "1": call("Stamp", text=["0", 0]), "2": call("Show", source=["1", 0])}
        entry = await b.run(raw)  # linked inputs are None there (I2)
        assert entry["status"]["completed"]


async def test_nodes_that_are_not_idempotent_each_run_c2(tmp_path):
    async with bench(tmp_path) as b:
        raw = {
            "1": call("Once", text="x"),
            "2": call("Once", text="x"),
            "3": call("Show", source=["1", 0]),
            "4": call("Show", source=["2", 0]),
        }
        await b.run(raw)
        assert [kind for kind, _ in nodes.calls].count("Once") == 2


async def test_only_the_lazy_input_asked_for_runs_l1_l2(tmp_path):
    async with bench(tmp_path) as b:
        raw = {
            "x": call("Say", text="x"),
            "y": call("Say", text="y"),
            "m": call("Either", which=True, yes=["x", 0], no=["y", 0]),
            "o": call("Show", source=["m", 0]),
        }
        entry = await b.run(raw)
        assert [d["node"] for d in b.data("executing")] == ["m", "x", "m", "o", None]
        assert entry["outputs"]["o"] == {"text": ["x"]}
        assert nodes.calls[0] == ("lazy", (None, None))


async def test_a_lazy_input_that_is_no_link_needs_nothing_more(tmp_path):
    async with bench(tmp_path) as b:
        raw = {"m": call("Either", which=False, yes="a", no="b"), "o": call("Show", source=["m", 0])}
        error = (await b.run(raw))["status"]["messages"][-1]
        # L3: a constant that is asked for is an error of the node, as ComfyUI has it.
        assert error[0] == "execution_error"
        assert error[1]["exception_type"].endswith("NodeInputError")


async def test_a_blocker_stops_what_depends_on_it_and_the_run_goes_on_b1_b2(tmp_path):
    async with bench(tmp_path) as b:
        raw = {
            "1": call("Block", text="not today"),
            "2": call("Say", text=["1", 0]),
            "3": call("Show", source=["2", 0]),
            "4": call("Show", source=["5", 0]),
            "5": call("Say", text="fine"),
        }
        entry = await b.run(raw)
        (told,) = b.data("execution_error")
        assert told["node_id"] == "2"
        assert (told["exception_type"], told["exception_message"]) == (
            "ExecutionBlocked",
            "Execution Blocked: not today",
        )
        assert "timestamp" not in told
        assert entry["status"]["status_str"] == "success"
        assert entry["outputs"] == {"4": {"text": ["fine"]}}
        await b.run(raw)
        assert nodes.calls == []
        assert b.data("execution_error") == []


async def test_an_async_node_is_awaited_a1(tmp_path):
    async with bench(tmp_path) as b:
        entry = await b.run({"1": call("Sleepy", text="x"), "2": call("Show", source=["1", 0])})
        assert entry["outputs"]["2"] == {"text": ["x"]}


async def test_a_failure_is_reported_in_full_r1_r2(tmp_path):
    async with bench(tmp_path) as b:
        raw = {
            "1": call("Fail", message="boom"),
            "2": call("Show", source=["1", 0]),
            "3": call("Show", source=["4", 0]),
            "4": call("Say", text="fine"),
        }
        entry = await b.run(raw)
        (error,) = b.data("execution_error")
        assert error["node_id"] == "1"
        assert error["node_type"] == "Fail"
        assert error["exception_message"] == "boom\n"
        assert error["exception_type"] == "ValueError"
        assert error["current_inputs"] == {"message": ["boom"]}
        assert set(error["current_outputs"]) == set(raw)
        assert set(error["executed"]) <= {"3", "4"}
        assert any("raise ValueError(message)" in frame for frame in error["traceback"])
        assert entry["status"] == {
            "status_str": "error",
            "completed": False,
            "messages": entry["status"]["messages"],
        }
        assert entry["status"]["messages"][-1] == ["execution_error", error]
        assert b.data("progress_state")[-1]["nodes"]["1"]["state"] == "error"
        assert b.types()[-2:] == ["status", "executing"]


async def test_finished_nodes_stay_cached_and_shown_after_a_failure_x6(tmp_path):
    async with bench(tmp_path) as b:
        raw = {
            "4": call("Say", text="fine"),
            "3": call("Show", source=["4", 0]),
            "0": call("Add", a=1),
            "1": call("Fail", message="boom"),
            "2": call("Sum", values=["1", 0]),
            "9": call("Show", source=["2", 0]),
        }
        entry = await b.run(raw)
        assert entry["outputs"] == {"3": {"text": ["fine"]}}
        await b.run(raw)
        assert nodes.calls == []


async def test_an_error_of_limner_is_told_in_its_words(tmp_path):
    async with bench(tmp_path) as b:
        entry = await b.run({"1": call("Odd", mode="limner"), "2": call("Show", source=["1", 0])})
        error = entry["status"]["messages"][-1][1]
        assert error["exception_message"] == "It broke. For a reason. Mend it.\n"
        assert error["exception_type"] == "limner.errors.BadInput"


@pytest.mark.parametrize("mode", ["memory", "limner-memory"])
def test_out_of_memory_gives_a_tip_and_unloads_models_r3(mode, tmp_path):
    async def run():
        async with bench(tmp_path) as b:
            entry = await b.run({"1": call("Odd", mode=mode), "2": call("Show", source=["1", 0])})
            return entry["status"]["messages"][-1][1]["exception_message"]

    assert asyncio.run(run()).endswith("that use the device.")


@pytest.mark.parametrize("mode", ["exit", "count", "unprintable"])
async def test_an_odd_failure_costs_one_prompt_only(mode, tmp_path):
    async with bench(tmp_path) as b:
        entry = await b.run({"1": call("Odd", mode=mode), "2": call("Show", source=["1", 0])})
        assert entry["status"]["status_str"] == "error"
        assert entry["status"]["messages"][-1][1]["node_id"] == "1"
        assert (await b.run(say_and_show()))["status"]["completed"]


async def test_hidden_inputs_are_filled_in_h1(tmp_path):
    async with bench(tmp_path) as b:
        entry = await b.run({"7": call("Secret")}, extra_data={"extra_pnginfo": {"workflow": 1}})
        assert entry["outputs"]["7"] == {"seen": ["7", {"workflow": 1}, ["7"]]}


async def test_progress_of_a_node_is_told_step_by_step_p2(tmp_path):
    async with bench(tmp_path) as b:
        await b.run({"1": call("Steps", count=3), "2": call("Show", source=["1", 0])})
        assert [(d["node"], d["value"], d["max"]) for d in b.data("progress")] == [
            ("1", 1, 3),
            ("1", 2, 3),
            ("1", 3, 3),
        ]
        assert b.data("progress_state")[-1]["nodes"]["1"]["max"] == 3


async def test_a_preview_comes_before_its_progress_encoded_p3(tmp_path):
    async with bench(tmp_path) as b:
        await b.run({"1": call("Paint", side=4), "2": call("Show", source=["1", 0])})
        kinds = [kind for kind in b.types() if kind in ("preview", "progress")]
        assert kinds == ["preview", "progress"]
        (preview,) = [event for event in b.events if event.type == "preview"]
        assert preview.image.startswith(b"\xff\xd8")
        assert preview.data()["image_type"] == "image/jpeg"


async def test_progress_states_of_a_long_chain_are_few_p1(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(trims(1000))
        assert len(b.data("executing")) == 1002
        assert 1 <= len(b.data("progress_state")) <= 20


async def test_targets_limit_outputs_and_what_runs_z8(tmp_path):
    async with bench(tmp_path) as b:
        raw = {**say_and_show(), "3": call("Show", source=["4", 0]), "4": call("Say", text="other")}
        entry = await b.run(raw, partial_execution_targets=["2"])
        assert entry["prompt"][4] == ["2"]
        assert set(entry["outputs"]) == {"2"}
        assert ("Say", "other") not in nodes.calls
