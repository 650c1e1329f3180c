"""What people do with a memory manager: sessions of prompts over networks at reduced width, to be recorded.

Pictures are an eighth as wide and high as in life, so 64 is 512 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from limner.models.control.unet import ControlUNet, ControlUNetConfig
from limner.models.unet import UNet
from tests.families.make import Graph, Link, Loaded, Prepared, Small, from_checkpoint, from_split_files
from tests.families.networks import CLIP_L, UNET_SAYS, Part, unet
from tests.families.small import HINT, SMALL

ZOOM = 8
"""How many times as wide and high pictures are in life."""
GB = 1000**3
STEPS = 20


@dataclass(frozen=True)
class Others:
    """Other programs take so many bytes of the device from here on; after: passes of the next prompt that come first."""

    nbytes: int
    after: int = 0


@dataclass(frozen=True)
class Free:
    """Someone asks that models be unloaded."""


Step = dict[str, Any] | Others | Free


@dataclass(frozen=True)
class Scenario:
    """A session. smalls: the families whose files it needs. settings: of the server. copies: file → a copy's name."""

    name: str
    about: str
    steps: Sequence[Step]
    smalls: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


FAMILIES = {small.name: small for small in SMALL}


def _sd1_control() -> Part:
    base = unet("sd15-unet", context_dim=CLIP_L).make()
    assert isinstance(base, UNet)
    return Part(lambda: ControlUNet(ControlUNetConfig(base.config, HINT)), UNET_SAYS)


def finetune(name: str, letter: str) -> str:
    """A family's checkpoint under another name, with the same shapes."""
    found = f"{name}_{letter}"
    FAMILIES[found] = replace(FAMILIES[name], name=found, files="")
    return found


FAMILIES["sd1_control"] = replace(
    FAMILIES["sd1"], name="sd1_control", files="sd1", extra={"controlnet/sd1.safetensors": _sd1_control()}
)
FAMILIES["sd1_two_controls"] = replace(
    FAMILIES["sd1_control"],
    name="sd1_two_controls",
    extra={f"controlnet/{name}.safetensors": _sd1_control() for name in ("sd1", "sd1_other")},
)
TRANSFORMERS = ("sd3", "flux", "qwen", "chroma")


# -- parts of graphs --------------------------------------------------------------------------------------------------


def blank(graph: Graph, small: Small, side: int, batch: int = 1) -> Link:
    """An empty latent of the family's kind."""
    kind = "EmptySD3LatentImage" if small.name.startswith(TRANSFORMERS) else "EmptyLatentImage"
    return graph.add(kind, width=side, height=side, batch_size=batch)


def sampled(graph: Graph, small: Small, told: Prepared, seed: int = 1, **changes: Any) -> Link:
    """KSampler."""
    settings = {"seed": seed, "steps": STEPS, "cfg": small.cfg, "sampler_name": "euler", "scheduler": "simple"}
    told_inputs = {"positive": told.positive, "negative": told.negative, "latent_image": told.latent}
    return graph.add("KSampler", model=told.model, **told_inputs, **{**settings, "denoise": 1.0, **changes})


def saved(graph: Graph, latent: Link, vae: Link) -> Link:
    """VAEDecode and SaveImage. Returns the pictures."""
    pictures = graph.add("VAEDecode", samples=latent, vae=vae)
    graph.add("SaveImage", images=pictures, filename_prefix="picture")
    return pictures


def texts(graph: Graph, small: Small, loaded: Loaded, prompt: str) -> tuple[Link, Link]:
    """Both conditionings."""
    return small.encode(graph, loaded, prompt), small.encode(graph, loaded, "on a mat")


def with_loras(graph: Graph, loaded: Loaded, small: Small, loras: Sequence[tuple[str, float]]) -> Loaded:
    """LoraLoader, one after the other. loras: letters, and how strong."""
    model, clip = loaded.model, loaded.clip
    for letter, strength in loras:
        file = f"{small.file.removesuffix('.safetensors')}_{letter}.safetensors"
        model, clip = graph.outputs(
            "LoraLoader", 2, model=model, clip=clip, lora_name=file, strength_model=strength, strength_clip=strength
        )
    return loaded._replace(model=model, clip=clip)


def side_of(name: str) -> int:
    """The side for which a family is made, in pixels of here."""
    return 512 // ZOOM if name.startswith(("sd1", "sd2")) else 1024 // ZOOM


Loader = Callable[[Graph, Small], Loaded]


def picture(
    name: str, prompt: str = "a cat", seed: int = 1, *, side: int = 0, batch: int = 1, load: Loader = from_checkpoint,
    loras: Sequence[tuple[str, float]] = (), own: bool = False, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """A prompt: from text to a picture. own: with what the family's own graph shows the sampler."""
    small, graph = FAMILIES[name], Graph()
    loaded = with_loras(graph, load(graph, small), small, loras)
    positive, negative = texts(graph, small, loaded, prompt)
    if own:
        told = small.prepare(graph, loaded, positive, negative)
    else:
        told = Prepared(loaded.model, positive, negative, blank(graph, small, side or side_of(name), batch))
    saved(graph, sampled(graph, small, told, seed, **changes), loaded.vae)
    return graph.prompt


def two_passes(
    name: str, prompt: str = "a cat", seed: int = 1, *, larger: float = 2.0, batch: int = 1,
    loras: tuple[Sequence[tuple[str, float]], Sequence[tuple[str, float]]] = ((), ()), load: Loader = from_checkpoint,
) -> dict[str, Any]:  # fmt: skip
    """A prompt: a picture, enlarged as a latent, and sampled again; each pass with its LoRAs."""
    small, graph = FAMILIES[name], Graph()
    plain = load(graph, small)
    first, second = (with_loras(graph, plain, small, one) for one in loras)
    positive, negative = texts(graph, small, first, prompt)
    latent = sampled(
        graph, small, Prepared(first.model, positive, negative, blank(graph, small, side_of(name), batch)), seed
    )
    enlarged = graph.add("LatentUpscaleBy", samples=latent, upscale_method="nearest-exact", scale_by=larger)
    again = sampled(graph, small, Prepared(second.model, positive, negative, enlarged), seed, denoise=0.5)
    saved(graph, again, plain.vae)
    return graph.prompt


def controlled(name: str, files: Sequence[str], prompt: str = "a cat", seed: int = 1, **changes: Any) -> dict[str, Any]:
    """A prompt with ControlNets, one on top of the other."""
    small, graph = FAMILIES[name], Graph()
    loaded = with_loras(graph, from_checkpoint(graph, small), small, changes.pop("loras", ()))
    both = list(texts(graph, small, loaded, prompt))
    shown = graph.add("LoadImage", image="picture.png")
    for file in files:
        network = graph.add("ControlNetLoader", control_net_name=f"{file}.safetensors")
        inputs = {"positive": both[0], "negative": both[1], "image": shown, "vae": loaded.vae, "control_net": network}
        span = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        both = graph.outputs("ControlNetApplyAdvanced", 2, **inputs, **span)
    latent = blank(graph, small, changes.pop("side", side_of(name)), changes.pop("batch", 1))
    saved(graph, sampled(graph, small, Prepared(loaded.model, *both, latent), seed, **changes), loaded.vae)
    return graph.prompt


def refined(prompt: str = "a cat", seed: int = 1) -> dict[str, Any]:
    """A prompt: Stable Diffusion XL to four fifths, its refiner to the end."""
    graph, base, refiner = Graph(), FAMILIES["sdxl"], FAMILIES["sdxl_refiner"]
    first, second = from_checkpoint(graph, base), from_checkpoint(graph, refiner)
    latent = blank(graph, base, side_of("sdxl"))
    common = {"noise_seed": seed, "steps": STEPS, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}
    for small, loaded, start, end in ((base, first, 0, 16), (refiner, second, 16, 10000)):
        positive, negative = texts(graph, small, loaded, prompt)
        latent = graph.add(
            "KSamplerAdvanced", model=loaded.model, positive=positive, negative=negative, latent_image=latent,
            add_noise="enable" if start == 0 else "disable", start_at_step=start, end_at_step=end,
            return_with_leftover_noise="enable" if start == 0 else "disable", **common,
        )  # fmt: skip
    saved(graph, latent, first.vae)
    return graph.prompt


def remade(first: str, second: str, prompt: str = "a cat", seed: int = 1, larger: float = 2.0) -> dict[str, Any]:
    """A prompt: a picture by one family, enlarged, and sampled again by another."""
    graph, one, other = Graph(), FAMILIES[first], FAMILIES[second]
    loaded = from_checkpoint(graph, one)
    told = Prepared(loaded.model, *texts(graph, one, loaded, prompt), blank(graph, one, side_of(first)))
    pictures = graph.add("VAEDecode", samples=sampled(graph, one, told, seed), vae=loaded.vae)
    scaled = graph.add("ImageScaleBy", image=pictures, upscale_method="lanczos", scale_by=larger)
    again = from_checkpoint(graph, other)
    latent = graph.add("VAEEncode", pixels=scaled, vae=again.vae)
    told = Prepared(again.model, *texts(graph, other, again, prompt), latent)
    saved(graph, sampled(graph, other, told, seed, denoise=0.4), again.vae)
    return graph.prompt


def from_picture(name: str, prompt: str = "a cat", seed: int = 1, *, larger: float = 2.0) -> dict[str, Any]:
    """A prompt: a picture of the input folder, enlarged, encoded, sampled and decoded."""
    graph, small = Graph(), FAMILIES[name]
    loaded = from_checkpoint(graph, small)
    scaled = graph.add(
        "ImageScaleBy", image=graph.add("LoadImage", image="picture.png"), upscale_method="area", scale_by=larger
    )
    latent = graph.add("VAEEncode", pixels=scaled, vae=loaded.vae)
    told = Prepared(loaded.model, *texts(graph, small, loaded, prompt), latent)
    saved(graph, sampled(graph, small, told, seed, denoise=0.6), loaded.vae)
    return graph.prompt


def detailed(name: str, parts: int, prompt: str = "a cat", seed: int = 1) -> dict[str, Any]:
    """A prompt: an enlarged picture improved part by part, each encoded, sampled and decoded."""
    graph, small = Graph(), FAMILIES[name]
    loaded = from_checkpoint(graph, small)
    positive, negative = texts(graph, small, loaded, prompt)
    for part in range(parts):
        cut = graph.add("ImageCrop", image=graph.add("LoadImage", image="picture.png"), width=48, height=48,
                        x=4 * part, y=4 * part)  # fmt: skip
        pixels = graph.add("ImageScaleBy", image=cut, upscale_method="area", scale_by=side_of(name) / 48)
        latent = graph.add("VAEEncode", pixels=pixels, vae=loaded.vae)
        again = sampled(graph, small, Prepared(loaded.model, positive, negative, latent), seed, denoise=0.4)
        saved(graph, again, loaded.vae)
    return graph.prompt


# -- sessions ---------------------------------------------------------------------------------------------------------

PROMPTS = ("a cat", "a dog", "a cat on a mat", "dog dog", "on a mat a cat")


def seeds(name: str, count: int = 4, **settings: Any) -> list[Step]:
    """The same again with another seed."""
    return [picture(name, seed=seed, **settings) for seed in range(count)]


def words(name: str, count: int = 5, **settings: Any) -> list[Step]:
    """Another text each time."""
    return [picture(name, prompt, **settings) for prompt in PROMPTS[:count]]


def in_turn(names: Sequence[str], rounds: int = 3, **settings: Any) -> list[Step]:
    """Several families or checkpoints, one after the other, again and again."""
    return [picture(name, seed=turn, **settings) for turn in range(rounds) for name in names]


A, B, C = ("a", 1.0), ("b", 0.8), ("c", 0.5)
GROWING = (1, 2, 4, 8)
SIZES = (512 // ZOOM, 768 // ZOOM, 1024 // ZOOM, 1536 // ZOOM)
FP8 = {"fp8_e4m3fn_unet": True, "bf16_unet": False}
TAESD = {"preview_method": "taesd"}


def scenarios() -> list[Scenario]:
    """All sessions."""
    return [*_first_and_second(), *_xl(), *_transformers(), *_mixed(), *_disturbed()]


def _first_and_second() -> list[Scenario]:
    both = (*seeds("sd1", 2), *seeds("sd1_inpaint", 2, own=True))
    return [
        Scenario("sd1_seeds", "one prompt, other seeds", seeds("sd1"), ("sd1",)),
        Scenario("sd1_texts", "other texts", words("sd1"), ("sd1",)),
        Scenario("sd1_batches", "batches that grow", [picture("sd1", batch=n) for n in GROWING], ("sd1",)),
        Scenario("sd1_sizes", "pictures that grow", [picture("sd1", side=n) for n in SIZES], ("sd1",)),
        Scenario("sd1_upscaled", "two passes, the second larger", [two_passes("sd1", seed=n) for n in range(3)], ("sd1",)),
        Scenario("sd1_lora_passes", "another LoRA in each pass",
                 [two_passes("sd1", seed=n, loras=((A,), (B,))) for n in range(3)], ("sd1",)),
        Scenario("sd1_lora_strengths", "one LoRA, stronger each time",
                 [picture("sd1", loras=(("a", n / 4),)) for n in range(1, 5)], ("sd1",)),
        Scenario("sd1_control", "a ControlNet", [controlled("sd1_control", ["sd1"], seed=n) for n in range(3)],
                 ("sd1_control", "sd1")),
        Scenario("sd1_two_controls", "one ControlNet, then two, then one",
                 [controlled("sd1_two_controls", ["sd1", "sd1_other"][:n]) for n in (1, 2, 1, 2)],
                 ("sd1_two_controls", "sd1")),
        Scenario("sd1_previews", "a tiny autoencoder after each step", seeds("sd1", 3), ("sd1",), TAESD),
        Scenario("sd1_from_picture", "picture to picture, ever larger",
                 [from_picture("sd1", larger=n) for n in (1.0, 1.5, 2.0)], ("sd1",)),
        Scenario("sd1_detailed", "an enlarged picture, part by part", [detailed("sd1", 4), detailed("sd1", 4, seed=2)],
                 ("sd1",)),
        Scenario("sd1_inpaint", "a picture, then a hole in it", [*both, *both], ("sd1", "sd1_inpaint")),
        Scenario("sd2_upscaled", "Stable Diffusion 2 and its upscaler by four",
                 [picture("sd2_v"), picture("sd_x4", own=True), picture("sd2_v", seed=2), picture("sd_x4", own=True, seed=2)],
                 ("sd2_v", "sd_x4")),
    ]  # fmt: skip


def _xl() -> list[Scenario]:
    three = [finetune("sdxl", letter) for letter in "bcd"]
    control = ("sdxl_control", "sdxl")
    grown = [picture("sdxl", loras=(A, B, C)[:n]) for n in (0, 1, 2, 3, 1)]
    return [
        Scenario("sdxl_seeds", "one prompt, other seeds", seeds("sdxl"), ("sdxl",)),
        Scenario("sdxl_texts", "other texts", words("sdxl"), ("sdxl",)),
        Scenario("sdxl_batches", "batches that grow", [picture("sdxl", batch=n) for n in GROWING], ("sdxl",)),
        Scenario("sdxl_sizes", "pictures that grow", [picture("sdxl", side=n) for n in SIZES], ("sdxl",)),
        Scenario("sdxl_fp8", "weights of eight bits", words("sdxl", 3), ("sdxl",), FP8),
        Scenario("sdxl_upscaled", "two passes, the second larger",
                 [two_passes("sdxl", seed=n, larger=1.5) for n in range(3)], ("sdxl",)),
        Scenario("sdxl_refiner", "base and refiner", [refined(seed=n) for n in range(3)], ("sdxl", "sdxl_refiner")),
        Scenario("sdxl_refiner_texts", "base and refiner, other texts", [refined(one) for one in PROMPTS[:3]],
                 ("sdxl", "sdxl_refiner")),
        Scenario("sdxl_lora_passes", "another LoRA in each pass",
                 [two_passes("sdxl", seed=n, larger=1.5, loras=((A,), (A, B))) for n in range(3)], ("sdxl",)),
        Scenario("sdxl_lora_off", "a LoRA in the first pass alone",
                 [two_passes("sdxl", seed=n, larger=1.5, loras=((B,), ())) for n in range(3)], ("sdxl",)),
        Scenario("sdxl_lora_stack", "ever more LoRAs", grown, ("sdxl",)),
        Scenario("sdxl_control", "a ControlNet", [controlled("sdxl_control", ["sdxl"], seed=n) for n in range(3)], control),
        Scenario("sdxl_control_lora", "a ControlNet, LoRAs that change",
                 [controlled("sdxl_control", ["sdxl"], loras=one) for one in ((A,), (B,), (A, B), ())], control),
        Scenario("sdxl_control_batches", "a ControlNet, batches that grow",
                 [controlled("sdxl_control", ["sdxl"], batch=n) for n in GROWING[:3]], control),
        Scenario("sdxl_previews", "a tiny autoencoder after each step", seeds("sdxl", 3), ("sdxl",), TAESD),
        Scenario("sdxl_three", "three checkpoints in turn", in_turn(three), tuple(three)),
        Scenario("sdxl_two", "two checkpoints compared", in_turn(three[:2], 4), tuple(three[:2])),
        Scenario("sdxl_inpaint", "a picture, then a hole in it",
                 [*seeds("sdxl", 2), *seeds("sdxl_inpaint", 2, own=True), *seeds("sdxl", 2)], ("sdxl", "sdxl_inpaint")),
        Scenario("sdxl_small", "its smaller relatives in turn", in_turn(("ssd1b", "koala_700m", "vega"), 2),
                 ("ssd1b", "koala_700m", "vega")),
    ]  # fmt: skip


def _transformers() -> list[Scenario]:
    return [
        Scenario("sd3_seeds", "one prompt, other seeds", seeds("sd3_medium"), ("sd3_medium",)),
        Scenario("sd35_large_texts", "other texts", words("sd35_large", 4), ("sd35_large",)),
        Scenario("sd35_control", "a ControlNet", [controlled("sd35_control", ["sd35"], seed=n) for n in range(3)],
                 ("sd35_control", "sd35_large")),
        Scenario("sd35_medium_sizes", "pictures that grow", [picture("sd35_medium", side=n) for n in SIZES],
                 ("sd35_medium",)),
        Scenario("flux_seeds", "one prompt, other seeds", seeds("flux_dev"), ("flux_dev",)),
        Scenario("flux_texts", "other texts", words("flux_dev", load=from_split_files), ("flux_dev",)),
        Scenario("flux_fp8", "weights of eight bits, other texts", words("flux_dev", 4), ("flux_dev",), FP8),
        Scenario("flux_batches", "batches that grow", [picture("flux_dev", batch=n) for n in GROWING], ("flux_dev",)),
        Scenario("flux_upscaled", "two passes, the second larger",
                 [two_passes("flux_dev", seed=n, larger=1.5) for n in range(2)], ("flux_dev",)),
        Scenario("flux_lora_passes", "another LoRA in each pass",
                 [two_passes("flux_dev", seed=n, larger=1.5, loras=((A,), (B,))) for n in range(2)], ("flux_dev",)),
        Scenario("flux_control", "a ControlNet", [controlled("flux_control", ["flux"], seed=n) for n in range(2)],
                 ("flux_control", "flux_dev")),
        Scenario("flux_kontext", "a picture to go by", seeds("flux_kontext", 3, own=True), ("flux_kontext", "flux_dev")),
        Scenario("flux_fill", "a picture, then a hole in it", in_turn(("flux_dev", "flux_fill"), 2, own=True),
                 ("flux_dev", "flux_fill")),
        Scenario("flux_two", "drafts by schnell, then dev",
                 [*seeds("flux_schnell", 3, steps=4), *seeds("flux_dev", 1), *seeds("flux_schnell", 2, steps=4)],
                 ("flux_schnell", "flux_dev")),
        Scenario("qwen_seeds", "one prompt, other seeds", seeds("qwen_image", 3), ("qwen_image",)),
        Scenario("qwen_texts", "other texts", words("qwen_image", 4), ("qwen_image",)),
        Scenario("qwen_lora", "a LoRA on and off", [picture("qwen_image", loras=one) for one in ((A,), (), (A,))],
                 ("qwen_image",)),
        Scenario("qwen_control", "a ControlNet", [controlled("qwen_image_control", ["qwen_image"], seed=n) for n in range(2)],
                 ("qwen_image_control", "qwen_image")),
        Scenario("chroma_texts", "other texts", words("chroma", 3), ("chroma",)),
        Scenario("pixart_texts", "other texts", words("pixart_sigma", 4), ("pixart_sigma",)),
    ]  # fmt: skip


def _mixed() -> list[Scenario]:
    return [
        Scenario("sd1_then_sdxl", "a picture by 1, made again by XL",
                 [remade("sd1", "sdxl", seed=n) for n in range(3)], ("sd1", "sdxl")),
        Scenario("flux_then_sdxl", "a picture by Flux, made again by XL",
                 [remade("flux_dev", "sdxl", seed=n, larger=1.0) for n in range(2)], ("flux_dev", "sdxl")),
        Scenario("three_families", "1, XL and 3 in turn", in_turn(("sd1", "sdxl", "sd3_medium"), 2),
                 ("sd1", "sdxl", "sd3_medium")),
        Scenario("large_families", "Flux and Qwen-Image in turn", in_turn(("flux_dev", "qwen_image"), 2),
                 ("flux_dev", "qwen_image")),
        Scenario("pixart_then_sd1", "a picture by PixArt, made again by 1",
                 [remade("pixart_sigma", "sd1", seed=n, larger=0.5) for n in range(3)], ("pixart_sigma", "sd1")),
    ]  # fmt: skip


def _disturbed() -> list[Scenario]:
    xl, flux = seeds("sdxl", 6), words("flux_dev", 4)
    one, other = seeds("sd1", 2), seeds("sdxl_refiner", 1)
    return [
        Scenario("sdxl_others_between", "other programs take memory and give it back between prompts",
                 [xl[0], Others(2 * GB), xl[1], Others(5 * GB), xl[2], Others(0), xl[3]], ("sdxl",)),
        Scenario("sdxl_others_within", "other programs take memory and give it back while a prompt runs",
                 [xl[0], Others(2 * GB, after=10), xl[1], Others(0, after=5), xl[2], Others(3 * GB, after=12), xl[3]],
                 ("sdxl",)),
        Scenario("flux_others", "a game beside Flux", [flux[0], Others(6 * GB), flux[1], Others(GB, after=8), *flux[2:]],
                 ("flux_dev",)),
        Scenario("sd1_others_batches", "other programs and batches grow",
                 [picture("sd1", batch=1), Others(GB), picture("sd1", batch=2), Others(2 * GB), picture("sd1", batch=4)],
                 ("sd1",)),
        Scenario("freed_between", "models are unloaded by request",
                 [*one, Free(), *other, Free(), *one[:1]], ("sd1", "sdxl_refiner")),
        Scenario("sdxl_others_lora", "other programs take memory, LoRAs change",
                 [picture("sdxl", loras=(A,)), Others(3 * GB), picture("sdxl", loras=(B,)), Others(GB),
                  picture("sdxl", loras=())], ("sdxl",)),
    ]  # fmt: skip
