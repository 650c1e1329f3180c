"""What a request becomes before the queue: numbers, ids, refusals."""

import math

import pytest

from limner.engine import PromptRejected
from limner.engine.submit import read_request
from tests.engine.make import bench, call, say_and_show


async def refused(b, body):
    with pytest.raises(PromptRejected) as error:
        await b.engine.submit(body)
    return error.value


async def test_numbers_count_up_and_rejected_ones_count_too(tmp_path):
    async with bench(tmp_path, started=False) as b:
        submit = b.engine.submit
        assert (await submit({"prompt": say_and_show()})).number == 0
        await refused(b, {"prompt": {}})
        assert (await submit({"prompt": say_and_show()})).number == 2
        assert (await submit({"prompt": say_and_show(), "front": True})).number == -3
        given = (await submit({"prompt": say_and_show(), "number": "3.5"})).number
        assert (given, type(given)) == (3.5, float)
        assert (await submit({"prompt": say_and_show()})).number == 4


async def test_the_queue_is_in_order_of_number_then_of_arrival(tmp_path):
    async with bench(tmp_path, started=False) as b:
        for name, more in (("a", {}), ("b", {}), ("c", {"number": 0}), ("d", {"front": True}), ("e", {"number": 0.5})):
            await b.engine.submit({"prompt": say_and_show(), "prompt_id": name, **more})
        assert [item[1] for item in b.engine.queue.pending()] == ["d", "a", "c", "e", "b"]


async def test_a_client_may_name_its_prompt(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(say_and_show(), prompt_id="mine")
        assert b.engine.history.get("mine")["prompt"][1] == "mine"


async def test_an_id_that_is_in_the_queue_is_refused(tmp_path):
    async with bench(tmp_path, started=False) as b:
        await b.engine.submit({"prompt": say_and_show(), "prompt_id": "mine"})
        error = await refused(b, {"prompt": say_and_show(), "prompt_id": "mine"})
        assert error.error["type"] == "duplicate_prompt_id"
        assert b.engine.queue.remaining() == 1


async def test_two_requests_of_one_id_at_once_are_one_prompt(tmp_path):
    import asyncio

    async with bench(tmp_path, started=False) as b:
        body = {"prompt": say_and_show(), "prompt_id": "mine"}
        results = await asyncio.gather(*(b.engine.submit(body) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(one, PromptRejected) for one in results) == 4
        assert b.engine.queue.remaining() == 1


async def test_an_id_that_has_ended_may_be_used_again(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(say_and_show("one"), prompt_id="mine")
        await b.run(say_and_show("two"), prompt_id="mine")
        assert b.engine.history.get("mine")["outputs"]["2"] == {"text": ["two"]}
        assert len(b.engine.history.list()) == 1


async def test_create_time_is_the_servers_z7(tmp_path):
    async with bench(tmp_path) as b:
        entry = await b.run(say_and_show(), extra_data={"create_time": 5})
        assert entry["prompt"][3]["create_time"] > 1_600_000_000_000


async def test_secrets_stay_out_of_queue_and_history_z6(tmp_path):
    secret = {"auth_token_comfy_org": "t0ken", "api_key_comfy_org": "k3y"}
    async with bench(tmp_path, started=False) as b:
        await b.engine.submit({"prompt": say_and_show(), "extra_data": secret})
        assert "t0ken" not in str(b.engine.queue.pending())
    async with bench(tmp_path / "other") as b:
        entry = await b.run(say_and_show(), extra_data=dict(secret))
        assert "k3y" not in str(entry)


@pytest.mark.parametrize("body", [None, [], "x", 5, {}, {"number": 1}])
def test_a_body_without_a_prompt(body):
    with pytest.raises(PromptRejected) as error:
        read_request(body)
    assert error.value.error == {
        "type": "no_prompt",
        "message": "No prompt provided",
        "details": "No prompt provided",
        "extra_info": {},
    }


@pytest.mark.parametrize(
    "more",
    [
        {"number": "x"},
        {"number": []},
        {"number": math.nan},
        {"number": 10**400},
        {"extra_data": []},
        {"extra_data": "x"},
        {"partial_execution_targets": "2"},
        {"partial_execution_targets": {"2": 1}},
        {"prompt_id": ""},
        {"prompt_id": "x" * 300},
        {"prompt_id": "\ud800"},
    ],
)
async def test_odd_requests_are_refused_not_lost(more, tmp_path):
    async with bench(tmp_path, started=False) as b:
        error = await refused(b, {"prompt": say_and_show(), **more})
        assert error.error["type"] == "invalid_prompt"
        assert b.engine.queue.remaining() == 0


@pytest.mark.parametrize("more", [{"front": "yes"}, {"prompt_id": 5}, {"prompt_id": None}, {"client_id": 7}])
async def test_harmless_oddities_are_taken(more, tmp_path):
    async with bench(tmp_path, started=False) as b:
        assert (await b.engine.submit({"prompt": say_and_show(), **more})).prompt_id


@pytest.mark.parametrize("place", ["extra_data", "note"])
async def test_what_json_does_not_have_is_refused(place, tmp_path):
    prompt, extra = say_and_show(), {}
    if place == "note":
        prompt["1"]["inputs"]["note"] = math.inf
    else:
        extra = {"x": math.nan}
    async with bench(tmp_path, started=False) as b:
        error = await refused(b, {"prompt": prompt, "extra_data": extra})
        assert error.error["type"] == "invalid_prompt"


async def test_a_refusal_carries_node_errors(tmp_path):
    async with bench(tmp_path, started=False) as b:
        error = await refused(b, {"prompt": {"1": call("Show")}})
        assert error.error["type"] == "prompt_outputs_failed_validation"
        assert set(error.node_errors) == {"1"}


async def test_a_prompt_is_accepted_with_the_errors_of_what_is_left_out_v12(tmp_path):
    async with bench(tmp_path) as b:
        accepted = await b.engine.submit({"prompt": {**say_and_show(), "9": call("Show")}})
        assert set(accepted.node_errors) == {"9"}
        entry = await b.engine.wait(accepted.prompt_id)
        assert entry["prompt"][4] == ["2"]


async def test_checks_are_called_v11(tmp_path):
    async with bench(tmp_path) as b:
        error = await refused(b, {"prompt": {"1": call("Even", number=3), "2": call("Show", source=["1", 0])}})
        assert error.node_errors["1"]["errors"][0]["details"] == "number - it is odd"
        assert await b.run({"1": call("Even", number=4), "2": call("Show", source=["1", 0])})


async def test_a_ui_workflow_is_converted(tmp_path):
    workflow = {
        "nodes": [
            {"id": 1, "type": "Say", "inputs": [], "outputs": [{"name": "STRING", "type": "STRING", "links": [1]}],
             "widgets_values": ["hello"], "mode": 0},
            {"id": 2, "type": "Show", "inputs": [{"name": "source", "type": "*", "link": 1}], "outputs": [], "mode": 0},
        ],
        "links": [[1, 1, 0, 2, 0, "STRING"]],
        "version": 0.4,
    }  # fmt: skip
    async with bench(tmp_path) as b:
        assert (await b.run(workflow))["outputs"]["2"] == {"text": ["hello"]}
