"""Broken prompts, and the exact error each gets: the body of POST /prompt, the status, the type, the node that is to blame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Graph = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """One broken body. `type` is the error's on the wire; of the node `node` if that is given, else the top one.

    says: words that must stand in the reply. status: the HTTP status.
    """

    name: str
    body: Any
    type: str
    node: str = ""
    says: tuple[str, ...] = ()
    status: int = 400


def text(value: Any = " a ", mode: Any = "Both", **more: Any) -> Graph:
    """A call of StringTrim."""
    return {"class_type": "StringTrim", "inputs": {"string": value, "mode": mode, **more}}


def show(source: Any = ("1", 0)) -> Graph:
    """A call of PreviewAny."""
    link = list(source) if isinstance(source, tuple) else source
    return {"class_type": "PreviewAny", "inputs": {"source": link}}


def latent(**inputs: Any) -> Graph:
    """A call of EmptyLatentImage."""
    values = {"width": 64, "height": 64, "batch_size": 1, **inputs}
    return {"class_type": "EmptyLatentImage", "inputs": {k: v for k, v in values.items() if v is not ...}}


def trimmed(**inputs: Any) -> Graph:
    """A StringTrim with these inputs and nothing else, shown."""
    return {"1": {"class_type": "StringTrim", "inputs": inputs}, "2": show()}


def with_latent(**inputs: Any) -> Graph:
    """An EmptyLatentImage with these inputs, shown."""
    return {"1": latent(**inputs), "2": show()}


def loading(kind: str, **inputs: Any) -> Graph:
    """A loader, shown."""
    return {"1": {"class_type": kind, "inputs": inputs}, "2": show()}


def sampler(**inputs: Any) -> Graph:
    """A KSampler over a checkpoint that exists, shown; `inputs` replace its own."""
    own = {
        "model": ["1", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0], "seed": 1, "steps": 2,
        "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "limner-starter.safetensors"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a", "clip": ["1", 1]}},
        "4": latent(),
        "5": {"class_type": "KSampler", "inputs": {k: v for k, v in {**own, **inputs}.items() if v is not ...}},
        "6": show(("5", 0)),
    }


def of(graph: Any, **more: Any) -> dict[str, Any]:
    """The body of a POST."""
    return {"prompt": graph, **more}


CYCLE = {"1": text(["2", 0]), "2": text(["3", 0]), "3": text(["1", 0]), "4": show(("1", 0))}
FAILED = "prompt_outputs_failed_validation"

BODIES: tuple[Refusal, ...] = (
    Refusal("no prompt", {}, "no_prompt", says=("No prompt provided",)),
    Refusal("a prompt that is null", of(None), "prompt_no_outputs"),
    Refusal("an empty prompt", of({}), "prompt_no_outputs"),
    Refusal("a list for a prompt", of([]), "prompt_no_outputs"),
    Refusal("a number for a prompt", of(7), "prompt_no_outputs"),
    Refusal("a text for a prompt", of("fox"), "prompt_no_outputs"),
    Refusal("a body that is a list", [], "invalid_prompt"),
    Refusal("a node that is a number", of({"1": 4}), "invalid_prompt", says=("1",)),
    Refusal("no class_type", of({"1": {"inputs": {}}}), "invalid_prompt", says=("class_type", "#1")),
    Refusal("a class_type that is a number", of({"1": {"class_type": 3, "inputs": {}}}), "invalid_prompt"),
    Refusal(
        "an unknown node",
        of({"1": {"class_type": "KSampelr", "inputs": {}}}),
        "invalid_prompt",
        says=("KSampelr", "#1"),
    ),
    Refusal("inputs that are a list", of({"1": {"class_type": "PreviewAny", "inputs": []}}), "invalid_prompt"),
    Refusal("no output node", of({"1": text()}), "prompt_no_outputs", says=("no outputs",)),
    Refusal(
        "targets that are no output",
        of({"1": text(), "2": show()}, partial_execution_targets=["1"]),
        "prompt_no_outputs",
    ),
    Refusal(
        "targets that do not exist",
        of({"1": text(), "2": show()}, partial_execution_targets=["9"]),
        "prompt_no_outputs",
    ),
    Refusal(
        "a number that is no number", of({"1": text(), "2": show()}, number="soon"), "invalid_prompt", says=("number",)
    ),
    Refusal(
        "extra_data that is a text",
        of({"1": text(), "2": show()}, extra_data="x"),
        "invalid_prompt",
        says=("extra_data",),
    ),
)

UI: Graph = {
    "version": 0.4, "last_node_id": 1, "last_link_id": 0, "links": [], "groups": [],
    "nodes": [{"id": 1, "type": "NoSuchNode", "pos": [0, 0], "size": [1, 1], "mode": 0, "inputs": [], "outputs": []}],
}  # fmt: skip
BODIES += (
    Refusal("a saved workflow with an unknown node", of(UI), "missing_node_type", says=("NoSuchNode",)),
    Refusal("a saved workflow with nothing in it", of({**UI, "nodes": []}), "prompt_no_outputs"),
)

NODES: tuple[Refusal, ...] = (
    Refusal("a missing input", of(trimmed(mode="Both")), "required_input_missing", "1", ("string",)),
    Refusal("two missing inputs are both told", of(trimmed()), "required_input_missing", "1", ("string", "mode")),
    Refusal("a missing link", of({"2": {"class_type": "PreviewAny", "inputs": {}}}), "required_input_missing", "2", ("source",)),
    Refusal("a link of one", of({"1": text(["2"]), "2": show()}), "bad_linked_input", "1"),
    Refusal("a link of three", of({"1": text(["2", 0, 1]), "2": show()}), "bad_linked_input", "1"),
    Refusal("a link to an absent node from an output", of({"2": show(("9", 0))}), "exception_during_validation", "2", ("9",)),
    Refusal("a link to an absent node below", of({"1": text(["9", 0]), "2": show()}), "exception_during_inner_validation", "1", ("9",)),
    Refusal("a slot that is not there", of({"1": text(), "2": show(("1", 4))}), "exception_during_validation", "2", ("4",)),
    Refusal("a slot below zero", of({"1": text(), "2": show(("1", -1))}), "exception_during_validation", "2"),
    Refusal("a slot that is a text", of({"1": text(), "2": show(["1", "0"])}), "exception_during_validation", "2"),
    Refusal("a slot that is a fraction", of({"1": text(), "2": show(["1", 0.5])}), "exception_during_validation", "2"),
    Refusal("a cycle names its members", of(CYCLE), "dependency_cycle", "1", ("1", "2", "3")),
    Refusal("a node wired to itself", of({"1": text(["1", 0]), "2": show()}), "dependency_cycle", "1"),
    Refusal("a latent where a text belongs", of({"3": latent(), "1": text(["3", 0]), "2": show()}), "return_type_mismatch", "1", ("LATENT", "STRING")),
    Refusal("a text where a model belongs", of({**sampler(model=["7", 0]), "7": text()}), "return_type_mismatch", "5", ("MODEL",)),
    Refusal("a word for an integer", of(with_latent(width="wide")), "invalid_input_type", "1", ("width", "wide")),
    Refusal("null for an integer", of(with_latent(width=None)), "invalid_input_type", "1"),
    Refusal("an object for an integer", of(with_latent(width={"a": 1})), "invalid_input_type", "1"),
    Refusal("a word for a float", of(sampler(cfg="high")), "invalid_input_type", "5", ("cfg",)),
    Refusal("the word nan for a float", of(sampler(cfg="nan")), "invalid_input_type", "5", ("cfg",)),
    Refusal("the word inf for a float", of(sampler(cfg="inf")), "invalid_input_type", "5", ("cfg",)),
    Refusal("an integer below its range", of(with_latent(width=8)), "value_smaller_than_min", "1", ("16",)),
    Refusal("an integer above its range", of(with_latent(width=99999999)), "value_bigger_than_max", "1", ("16384",)),
    Refusal("no pictures in a batch", of(with_latent(batch_size=0)), "value_smaller_than_min", "1"),
    Refusal("a seed below zero", of(sampler(seed=-1)), "value_smaller_than_min", "5", ("seed",)),
    Refusal("a seed above 64 bits", of(sampler(seed=2**64)), "value_bigger_than_max", "5", ("seed",)),
    Refusal("no steps", of(sampler(steps=0)), "value_smaller_than_min", "5", ("steps",)),
    Refusal("more than the whole denoised", of(sampler(denoise=1.5)), "value_bigger_than_max", "5", ("denoise",)),
    Refusal("a sampler that is not there", of(sampler(sampler_name="eular")), "value_not_in_list", "5", ("eular",)),
    Refusal("a scheduler that is not there", of(sampler(scheduler="karas")), "value_not_in_list", "5", ("karas",)),
    Refusal("a choice that is a number", of(trimmed(string="a", mode=3)), "value_not_in_list", "1"),
    Refusal("a missing model names the nearest", of(loading("CheckpointLoaderSimple", ckpt_name="limner-startr.safetensors")), "value_not_in_list", "1", ("limner-startr", "limner-starter.safetensors")),
    Refusal("a model by an absolute path", of(loading("CheckpointLoaderSimple", ckpt_name="/etc/passwd")), "value_not_in_list", "1"),
    Refusal("a model by a path that climbs", of(loading("CheckpointLoaderSimple", ckpt_name="../../etc/passwd")), "value_not_in_list", "1"),
    Refusal("an autoencoder that is not there", of(loading("VAELoader", vae_name="none.safetensors")), "value_not_in_list", "1"),
    Refusal("a picture that is not there", of(loading("LoadImage", image="nothing.png")), "custom_validation_failed", "1", ("nothing.png",)),
    Refusal("a picture by a path that climbs", of(loading("LoadImage", image="../../../etc/passwd")), "custom_validation_failed", "1"),
    Refusal("a picture by an absolute path", of(loading("LoadImage", image="/etc/passwd")), "custom_validation_failed", "1"),
    Refusal("a picture from a folder that is none", of(loading("LoadImage", image="a.png [secret]")), "custom_validation_failed", "1"),
)  # fmt: skip


def raw() -> tuple[tuple[str, bytes, int, str], ...]:
    """Bodies that are not even JSON, or JSON of the wrong kind: name, bytes, status, words of the reply."""
    graph = json.dumps(of(with_latent(width=64)))
    return (
        ("nothing at all", b"", 400, "JSON"),
        ("half an object", b'{"prompt": {', 400, "JSON"),
        ("bytes that are no text", b"\xff\xfe\x00", 400, "JSON"),
        ("NaN in the JSON", graph.replace("64", "NaN", 1).encode(), 400, "NaN"),
        ("Infinity in the JSON", graph.replace("64", "Infinity", 1).encode(), 400, "Infinity"),
        ("a hundred thousand brackets", b"[" * 100_000, 400, "JSON"),
    )


def reasons(reply: Mapping[str, Any], node: str) -> list[Mapping[str, Any]]:
    """The reasons given for one node."""
    return list(reply.get("node_errors", {}).get(node, {}).get("errors", ()))
