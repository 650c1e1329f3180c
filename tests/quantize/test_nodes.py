"""Calibrate, Quantize Model, Save Quantized Checkpoint and Compare, in prompts that an engine runs on the starter."""

import pytest

from limner.engine import Engine, NodeRegistry
from limner.memory import DefaultSettings, MemoryManager
from limner.settings import Settings
from limner.store import Store
from limner.weights import CheckpointHeader
from limner.weights.quant.files import packed_entries, quantized
from tests.engine.make import Bench, call
from tests.quantize.make import STARTER
from tests.weights.quant.checker import Checked

LAYERS = "input_blocks.3.0.*, input_blocks.3.1.*.ff.*"


@pytest.fixture
async def bench(tmp_path):
    store = Store.open(Settings(base_directory=str(tmp_path)))
    small = DefaultSettings(force_fp32=True, cpu=True)
    engine = Engine(Settings(), store, NodeRegistry.open(), memory=lambda: MemoryManager(small))
    await engine.start()
    yield Bench(engine)
    await engine.close()
    store.close()


def sampled(model) -> dict:
    return call("KSampler", model=model, seed=5, steps=2, cfg=3.0, sampler_name="euler", scheduler="karras",
                positive=["words", 0], negative=["words", 0], latent_image=["blank", 0], denoise=1.0)  # fmt: skip


def quantize(**inputs) -> dict:
    usual = {"include": LAYERS, "exclude": "", "observer": "amax", "max_error": 0.0, "also": "none"}
    return call("LimnerQuantizeModel", model=["file", 0], **{**usual, **inputs})


PROMPT = {
    "file": call("CheckpointLoaderSimple", ckpt_name=STARTER.name),
    "words": call("CLIPTextEncode", text="a fox", clip=["file", 1]),
    "blank": call("EmptyLatentImage", width=64, height=64, batch_size=1),
    "seen": call("LimnerCalibrate", model=["file", 0], clip=["file", 1], prompts="a red apple\na fox | size=64x48",
                 seed=0, steps=2, cfg=3.0, sampler_name="euler", scheduler="karras", width=64, height=64),
    "few": quantize(format="float8_e4m3fn", calibration=["seen", 0]),
    "best": quantize(format="int4_groups", calibration=["seen", 0], max_error=50.0, also="int8_rowwise"),
    "save": call("LimnerSaveQuantized", model=["few", 0], clip=["file", 1], vae=["file", 2], filename_prefix="small"),
    "exact": sampled(["file", 0]),
    "made": sampled(["few", 0]),
    "exact_picture": call("VAEDecode", samples=["exact", 0], vae=["file", 2]),
    "made_picture": call("VAEDecode", samples=["made", 0], vae=["file", 2]),
    "pictures": call("LimnerCompareImages", reference=["exact_picture", 0], images=["made_picture", 0]),
    "models": call("LimnerCompareModels", reference=["file", 0], model=["best", 0], calibration=["seen", 0]),
    "psnr": call("PreviewAny", source=["pictures", 0]),
    "snr": call("PreviewAny", source=["models", 0]),
    "report": call("PreviewAny", source=["models", 1]),
}  # fmt: skip


async def test_a_model_is_calibrated_quantized_saved_and_compared(bench, tmp_path) -> None:
    entry = await bench.run(PROMPT)
    assert entry["status"]["status_str"] == "success", entry["status"]
    texts = {node: shown["text"][0] for node, shown in entry["outputs"].items() if "text" in shown}
    assert 35 < float(texts["psnr"]) < 80
    assert float(texts["snr"]) >= 50
    lines = texts["report"].splitlines()
    assert lines[0].startswith("output: ")
    assert {line.split()[2] for line in lines[1:]} <= {"int4_groups", "int8_rowwise"}
    assert texts["save"].startswith("small_00001_.safetensors: ")
    path = tmp_path / "output" / "small_00001_.safetensors"
    assert Checked(path).wrong == []
    packed = dict(packed_entries(quantized(CheckpointHeader.read(path))))
    assert {entry.layout for entry in packed.values()} == {"float8_e4m3fn"}
    assert sum(name.endswith("input_scale") for name in CheckpointHeader.read(path)) == len(packed) == 6


@pytest.mark.parametrize(
    ("node", "changed", "message"),
    [
        ("few", quantize(format="nf4", max_error=20.0), "A search needs something to measure."),
        ("few", quantize(format="nf4", include="none.*"), "fits 'none.*'"),
        ("save", call("LimnerSaveQuantized", model=["file", 0], filename_prefix="x"), "The model is not quantized."),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_at_the_node(bench, node, changed, message) -> None:
    needed = {name: PROMPT[name] for name in ("file", "few", "save")}
    entry = await bench.run({**needed, "few": quantize(format="nf4"), node: changed})
    assert entry["status"]["status_str"] == "error"
    assert message in str(entry["status"]["messages"])
