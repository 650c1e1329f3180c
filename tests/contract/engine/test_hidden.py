"""Rules H1, S1, S2 and what of Z is not told elsewhere: hidden inputs, seeds, secrets, and re-checked behaviour."""

import pytest

from limner.engine import PromptRejected
from limner.graph import DynamicPrompt
from tests.contract.engine import classes
from tests.contract.engine.make import call, engine, out, shown

SEEN: list[dict] = []


class Sees(classes.Node):
    @classmethod
    def INPUT_TYPES(cls):
        hidden = ("PROMPT", "EXTRA_PNGINFO", "UNIQUE_ID", "DYNPROMPT", "AUTH_TOKEN_COMFY_ORG", "API_KEY_COMFY_ORG")
        return {"required": {"number": ("INT", {})}, "hidden": {one.lower(): one for one in hidden}}

    def go(self, **given):
        SEEN.append(given)
        return ("",)


class Seeded(classes.Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"seed": ("INT", {"min": 0, "max": 2**64 - 1, "control_after_generate": True})},
        }

    def go(self, seed):
        return (str(seed),)


async def test_hidden_inputs_are_filled_in(tmp_path):
    """Rules H1, Z6: the prompt after conversion, the client's extras, the id, and secrets that are stored nowhere."""
    SEEN.clear()
    async with engine(tmp_path, Sees) as b:
        raw = {"1": call("Sees", number="3"), "2": out("1")}
        extra = {"extra_pnginfo": {"workflow": {"id": 1}}, "auth_token_comfy_org": "t", "api_key_comfy_org": "k"}
        entry = await b.run(raw, extra_data=extra)
        (seen,) = SEEN
        assert seen["prompt"]["1"]["inputs"] == {"number": 3}
        assert seen["extra_pnginfo"] == {"workflow": {"id": 1}}
        assert seen["unique_id"] == "1"
        assert isinstance(seen["dynprompt"], DynamicPrompt)
        assert seen["dynprompt"].get_node("1")["class_type"] == "Sees"
        assert (seen["auth_token_comfy_org"], seen["api_key_comfy_org"]) == ("t", "k")
        assert "auth_token_comfy_org" not in str(entry)
        assert "'k'" not in str(entry)


async def test_without_extras_extra_pnginfo_is_none(tmp_path):
    """Rule H1."""
    SEEN.clear()
    async with engine(tmp_path, Sees) as b:
        await b.run({"1": call("Sees", number=1), "2": out("1")})
        assert SEEN[0]["extra_pnginfo"] is None


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
async def test_seeds_are_whole_numbers_of_64_bits(seed, tmp_path):
    """Rule S1."""
    async with engine(tmp_path, Seeded) as b:
        assert shown(await b.run({"1": call("Seeded", seed=seed), "2": out("1")})) == {"2": [str(seed)]}
        with pytest.raises(PromptRejected):
            await b.engine.submit({"prompt": {"1": call("Seeded", seed=2**64), "2": out("1")}})


async def test_the_server_only_forwards_what_a_client_does_after_generating(tmp_path):
    """Rule S2: the flag is in the description, and the prompt's seed is not changed."""
    async with engine(tmp_path, Seeded) as b:
        options = b.engine.object_info("Seeded")["Seeded"]["input"]["required"]["seed"][1]
        assert options["control_after_generate"] is True
        entry = await b.run({"1": call("Seeded", seed=5), "2": out("1")})
        assert entry["prompt"][2]["1"]["inputs"] == {"seed": 5}


async def test_create_time_is_the_servers(tmp_path):
    """Rule Z7: whole milliseconds, over what a client sent, and not in what is written into pictures."""
    SEEN.clear()
    async with engine(tmp_path, Sees) as b:
        extra = {"create_time": "mine", "extra_pnginfo": {"workflow": {}}}
        entry = await b.run({"1": call("Sees", number=1), "2": out("1")}, extra_data=extra)
        assert isinstance(entry["prompt"][3]["create_time"], int)
        assert "create_time" not in SEEN[0]["extra_pnginfo"]


async def test_identical_outputs_share_one_entry_and_targets_limit_what_runs(tmp_path):
    """Rule Z8; its other parts are V6 and R5. A plain * input takes anything here, on purpose (docs/architecture.md)."""
    async with engine(tmp_path) as b:
        raw = {"7": call("Plain", text="x"), "8": out("7"), "9": out("7")}
        entry = await b.run(raw)
        assert entry["meta"]["8"] == entry["meta"]["9"]
        entry = await b.run({**raw, "7": call("Plain", text="y")}, partial_execution_targets=["9"])
        assert entry["prompt"][4] == ["9"]
        assert set(entry["outputs"]) == set(entry["meta"]) == {"9"}


def test_bytes_have_a_signature():
    """Rule Z5."""
    from limner.graph import NodeCall, plan

    def signed(value):
        return plan({"1": NodeCall("A", {"x": value})}, []).signatures["1"]

    assert signed(b"a") == signed(b"a") != signed(b"b")
    assert signed([b"a", {"k": b"b"}]) == signed([b"a", {"k": b"b"}]) != signed([b"a", {"k": b"c"}])
    assert signed([object()]) != signed([object()])


def test_merged_hooks_keep_the_entries_of_the_first_first():
    """Rule Z10: nested too."""
    from limner.sampling.wrappers import merge_nested_dicts

    first = {"wrappers": {"sample": {None: ["a"]}}, "list": [1]}
    second = {"wrappers": {"sample": {None: ["b"], "key": ["c"]}}, "list": [2]}
    merged = merge_nested_dicts(first, second)
    assert merged == {"wrappers": {"sample": {None: ["a", "b"], "key": ["c"]}}, "list": [1, 2]}
    assert first["wrappers"]["sample"] == {None: ["a"]}
