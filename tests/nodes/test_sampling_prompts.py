"""Prompts of sampling nodes, run by the engine from their JSON on a small checkpoint."""

import pytest
import torch

from limner.engine import Engine, NodeRegistry
from limner.engine.submit import PromptRejected
from limner.memory import DefaultSettings, MemoryManager
from limner.nodes.model_merging_families import sd1
from limner.settings import Settings
from limner.store import Store
from limner.weights import CheckpointHeader
from tests.engine.make import Bench, call
from tests.models.checkpoints import checkpoint, tensors


@pytest.fixture
async def bench(tmp_path):
    settings = Settings(base_directory=str(tmp_path))
    store = Store.open(settings)
    small = DefaultSettings(force_fp32=True, cpu=True)
    engine = Engine(settings, store, NodeRegistry.open(), memory=lambda: MemoryManager(small))
    await engine.start()
    folder = store.folders.roots("checkpoints")[0]
    folder.mkdir(parents=True)
    checkpoint(folder, tensors(context_dim=8))
    yield Bench(engine)
    await engine.close()
    store.close()


BASE = {
    "model": call("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
    "yes": call("CLIPTextEncode", text="cat", clip=["model", 1]),
    "no": call("CLIPTextEncode", text="dog", clip=["model", 1]),
    "blank": call("EmptyLatentImage", width=64, height=64, batch_size=1),
}


async def latent(bench, tmp_path, nodes, samples, name):
    """The latent that a prompt saves."""
    prompt = {**BASE, **nodes, "save": call("SaveLatent", samples=samples, filename_prefix=name)}
    entry = await bench.run(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    return CheckpointHeader.read(tmp_path / "output" / f"{name}_00001_.latent").tensor("latent_tensor").clone()


def ksampler(model, seed=5):
    return call(
        "KSampler", model=model, seed=seed, steps=3, cfg=2.0, sampler_name="euler", scheduler="karras",
        positive=["yes", 0], negative=["no", 0], latent_image=["blank", 0], denoise=1.0,
    )  # fmt: skip


def advanced(model):
    """The same as `ksampler`, its parts given one by one."""
    return {
        "noise": call("RandomNoise", noise_seed=5),
        "guider": call("CFGGuider", model=model, positive=["yes", 0], negative=["no", 0], cfg=2.0),
        "sampler": call("KSamplerSelect", sampler_name="euler"),
        "sigmas": call("BasicScheduler", model=model, scheduler="karras", steps=3, denoise=1.0),
        "sample": call(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
            sigmas=["sigmas", 0], latent_image=["blank", 0],
        ),
    }  # fmt: skip


async def test_parts_given_one_by_one_make_the_same_latent_as_the_sampler_of_all(bench, tmp_path):
    whole = await latent(bench, tmp_path, {"sample": ksampler(["model", 0])}, ["sample", 0], "whole")
    parts = await latent(bench, tmp_path, advanced(["model", 0]), ["sample", 0], "parts")
    assert torch.equal(whole, parts)
    assert whole.abs().sum() > 0


async def test_equal_seeds_make_equal_latents_up_to_the_largest(bench, tmp_path):
    """Rules S1 and S2: a seed of 2^64 - 1 is taken as it is, whatever the client's wish for the next one."""
    largest = 2**64 - 1
    first = await latent(bench, tmp_path, {"sample": ksampler(["model", 0], largest)}, ["sample", 0], "a")
    other = ksampler(["model", 0], largest)
    other["inputs"]["control_after_generate"] = "randomize"
    second = await latent(bench, tmp_path, {"sample": other}, ["sample", 0], "b")
    third = await latent(bench, tmp_path, {"sample": ksampler(["model", 0], 0)}, ["sample", 0], "c")
    assert torch.equal(first, second)
    assert not torch.allclose(first, third)


async def test_a_seed_beyond_the_largest_is_refused(bench):
    """Rule S1."""
    save = call("SaveLatent", samples=["sample", 0], filename_prefix="x")
    with pytest.raises(PromptRejected) as refused:
        await bench.run({**BASE, "sample": ksampler(["model", 0], 2**64), "save": save})
    assert "bigger than max" in str(refused.value.node_errors)


async def test_merged_patched_and_hooked_models_run(bench, tmp_path):
    """Inputs with names that are no Python names, patches, hooks and saving, in one prompt."""
    ratios = {port.name: 1.0 for port in sd1.schema.inputs if port.kind == "FLOAT"}
    nodes = {
        "merged": call("ModelMergeSD1", model1=["model", 0], model2=["model", 0], **ratios),
        "free": call("FreeU", model=["merged", 0], b1=1.0, b2=1.0, s1=1.0, s2=1.0),
        "pag": call("PerturbedAttentionGuidance", model=["free", 0], scale=0.0),
        "frames": call("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0),
        "hook": call(
            "CreateHookModelAsLora", ckpt_name="tiny.safetensors", strength_model=0.5, strength_clip=0.5
        ),
        "hooks": call("SetHookKeyframes", hooks=["hook", 0], hook_kf=["frames", 0]),
        "hooked": call("ConditioningSetProperties", cond_NEW=["yes", 0], strength=1.0, set_cond_area="default",
                       hooks=["hooks", 0]),
        "sample": call(
            "KSampler", model=["pag", 0], seed=5, steps=3, cfg=2.0, sampler_name="euler", scheduler="karras",
            positive=["hooked", 0], negative=["no", 0], latent_image=["blank", 0], denoise=1.0,
        ),
        "checkpoint": call("ModelSave", model=["pag", 0], filename_prefix="m/kept"),
    }  # fmt: skip
    made = await latent(bench, tmp_path, nodes, ["sample", 0], "made")
    plain = await latent(bench, tmp_path, {"sample": ksampler(["model", 0])}, ["sample", 0], "plain")
    assert torch.allclose(made, plain, atol=1e-4)  # every change is one that changes nothing
    assert (tmp_path / "output" / "m" / "kept_00001_.safetensors").is_file()
