"""`nodes`: the registries of node classes, the built-in classes, and what node code calls."""

from __future__ import annotations

import logging
import os
import random
from importlib import import_module
from pathlib import Path
from typing import Any

from limner.compat.absent import class_of_absent
from limner.compat.builtin import BuiltinMeta, BuiltinNode, class_of, fill_tables, input_types, schema_of
from limner.compat.host import Host, current
from limner.errors import Interrupted
from limner.graph import CURRENT_RUN

MAX_RESOLUTION = 16384
supported_versions: list[str] = []
_LETTERS = "abcdefghijklmnopqrstupvxyz"
_BESIDE = {
    **{name: f"{name}:" for name in ("os", "sys", "json", "hashlib", "traceback", "math", "time", "random", "logging")},
    **{name: f"{name}:" for name in ("torch", "comfy", "folder_paths", "node_helpers", "latent_preview")},
    **{name: f"PIL.{name}:" for name in ("Image", "ImageOps", "ImageSequence")},
    "np": "numpy:",
    "PngInfo": "PIL.PngImagePlugin:PngInfo",
    "args": "comfy.cli_args:args",
    "ExecutionBlocker": "limner.graph:Blocker",
}
"""What packs take from `nodes` instead of importing it, mostly by `from nodes import *`."""
_TABLES = {
    "NODE_CLASS_MAPPINGS": "classes",
    "NODE_DISPLAY_NAME_MAPPINGS": "titles",
    "EXTENSION_WEB_DIRS": "web",
    "LOADED_MODULE_DIRS": "modules",
}


def __getattr__(name: str) -> Any:
    if name in _TABLES:
        host = current()
        fill_tables(host)
        return getattr(host.tables, _TABLES[name])
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _BESIDE:
        module, _, attribute = _BESIDE[name].partition(":")
        found = import_module(module)
        return getattr(found, attribute) if attribute else found
    host = current()
    try:
        return _with_extras(class_of(host, name))
    except AttributeError:
        return class_of_absent(host, name)


def __dir__() -> list[str]:
    return [*_TABLES, *_OWN, *_BESIDE, *current().registry.kinds()]


def before_node_execution() -> None:
    """Raise InterruptProcessingException when the running prompt was interrupted."""
    run = CURRENT_RUN.get()
    if run is not None:
        run.check()


def interrupt_processing(value: bool = True) -> None:
    """Interrupt the running prompt."""
    engine = current().engine
    if value and engine is not None:
        engine.interrupt()


def common_ksampler(
    model: Any,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    denoise: float = 1.0,
    disable_noise: bool = False,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
) -> tuple[dict[str, Any]]:
    """Sample a latent between two steps; a tuple of one latent, as V1 nodes return it.

    disable_noise: go on from the latent's own noise. force_full_denoise: leave none at the end.
    """
    from limner.nodes.progress import step_callback  # noqa: PLC0415 - torch comes with the first sampling
    from limner.sampling.run import ksample  # noqa: PLC0415

    run = current().run()
    found = ksample(
        model,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        latent,
        denoise=denoise,
        disable_noise=disable_noise,
        start_step=start_step,
        end_step=last_step,
        force_full_denoise=force_full_denoise,
        callback=step_callback(run, model),
    )
    return (found,)


class _SaveImage(BuiltinNode):
    """Save pictures; packs change where and how through the attributes of the instance.

    output_dir, type: the folder and its name on the wire. prefix_append: put behind the prefix. compress_level: PNG's.
    """

    KIND = "SaveImage"
    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "image"
    DESCRIPTION = "Saves the input images to your ComfyUI output directory."

    def __init__(self) -> None:
        self.output_dir = str(current().store.files.root("output"))
        self.type = "output"
        self.prefix_append = ""
        self.compress_level = 4

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Pictures and a prefix."""
        return input_types(schema_of("SaveImage"), current())

    def save_images(
        self, images: Any, filename_prefix: str = "ComfyUI", prompt: Any = None, extra_pnginfo: Any = None
    ) -> dict[str, Any]:
        """Write every picture of the batch and say where; the prompt goes into the files unless that is off."""
        import numpy as np  # noqa: PLC0415 - torch and numpy come with the first picture

        from limner.compat.homes.folder_paths import get_save_image_path  # noqa: PLC0415
        from limner.store.media import encode_png, text_chunks  # noqa: PLC0415

        host = current()
        prefix = filename_prefix + self.prefix_append
        height, width = int(images[0].shape[0]), int(images[0].shape[1])
        folder, stem, counter, subfolder, _ = get_save_image_path(prefix, self.output_dir, width, height)
        chunks = {} if host.settings.disable_metadata else text_chunks(prompt, extra_pnginfo)
        results = []
        for number, image in enumerate(images):
            pixels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
            name = f"{stem.replace('%batch_num%', str(number))}_{counter + number:05}_.png"
            data = encode_png(pixels, chunks, self.compress_level)
            Path(folder, name).write_bytes(data)
            results.append({"filename": name, "subfolder": subfolder, "type": self.type})
        return {"ui": {"images": results}}


class _PreviewImage(_SaveImage):
    """Show pictures: they are written to the temp folder."""

    KIND = "PreviewImage"
    DESCRIPTION = "Saves the input images to your ComfyUI output directory."

    def __init__(self) -> None:
        super().__init__()
        self.output_dir = str(current().store.files.root("temp"))
        self.type = "temp"
        self.prefix_append = "_temp_" + "".join(random.choice(_LETTERS) for _ in range(5))
        self.compress_level = 1

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Pictures."""
        return input_types(schema_of("PreviewImage"), current())


_SPECIAL: dict[str, type] = {"SaveImage": _SaveImage, "PreviewImage": _PreviewImage}
_RESIZERS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
_EXTRAS: dict[str, dict[str, Any]] = {
    "ImageScale": {"upscale_methods": [*_RESIZERS[:4], "lanczos"], "crop_methods": ["disabled", "center"]},
    "ImageScaleBy": {"upscale_methods": [*_RESIZERS[:4], "lanczos"]},
    "LatentUpscale": {"upscale_methods": _RESIZERS, "crop_methods": ["disabled", "center"]},
    "LatentUpscaleBy": {"upscale_methods": _RESIZERS},
}
_OWN = ("MAX_RESOLUTION", "common_ksampler", "before_node_execution", "interrupt_processing")


def _with_extras(cls: type) -> type:
    """The class with the attributes that ComfyUI's has beside the protocol."""
    extras = dict(_EXTRAS.get(cls.__name__, {}))
    if cls.__name__ == "VAEEncode":
        extras["vae_encode_crop_pixels"] = staticmethod(vae_encode_crop_pixels)
    if cls.__name__ == "VAELoader":
        extras["vae_list"] = staticmethod(vae_list)
    for name, value in extras.items():
        if name not in vars(cls):
            type.__setattr__(cls, name, value)
    return cls


def vae_encode_crop_pixels(pixels: Any) -> Any:
    """Pictures cut around the middle to sides that are multiples of 8."""
    height, width = (side // 8 * 8 for side in pixels.shape[1:3])
    if pixels.shape[1:3] != (height, width):
        top, left = (pixels.shape[1] % 8) // 2, (pixels.shape[2] % 8) // 2
        pixels = pixels[:, top : top + height, left : left + width, :]
    return pixels


def vae_list() -> list[str]:
    """The names that VAELoader offers."""
    return list(input_types(schema_of("VAELoader"), current())["required"]["vae_name"][0])


def get_module_name(module_path: str) -> str:
    """The name of a pack's module: its folder's name, or the file's without its ending."""
    base = os.path.basename(module_path.rstrip("/\\"))  # noqa: PTH119 - text in, text out
    return Path(base).stem if Path(module_path).is_file() else base


async def load_custom_node(
    module_path: str, ignore: set[str] | None = None, module_parent: str = "custom_nodes"
) -> bool:
    """Load one more pack while the program runs. Returns whether it loaded; why not is in the report."""
    del ignore, module_parent
    import asyncio  # noqa: PLC0415 - rarely called

    from limner.compat.discovery import Pack  # noqa: PLC0415 - the loader imports this package

    packs = current().parts.get("packs")
    if packs is None:
        return False
    report = await asyncio.to_thread(packs.load_pack, Pack(Path(module_path)))
    return report.state in ("loaded", "cached")


async def init_external_custom_nodes() -> None:
    """Packs are loaded by Limner itself; calling this again changes nothing."""
    logging.getLogger(__name__).debug("A pack asked for packs to be loaded; they are.")


async def init_builtin_extra_nodes() -> list[str]:
    """The built-in nodes that failed to load: none."""
    return []


async def init_builtin_api_nodes() -> list[str]:
    """The nodes of hosted services that failed to load: none."""
    return []


async def init_public_apis() -> None:
    """The public APIs are there from the start."""
    logging.getLogger(__name__).debug("A pack asked for the public APIs; they are there.")


async def init_extra_nodes(init_custom_nodes: bool = True, init_api_nodes: bool = True) -> None:
    """Nodes are loaded by Limner itself; calling this again changes nothing."""
    del init_custom_nodes, init_api_nodes
    logging.getLogger(__name__).debug("A pack asked for nodes to be loaded; they are.")


def install_special(host: Host) -> None:
    """Make the classes written here the built-in classes of their kinds."""
    for kind, cls in _SPECIAL.items():
        host.tables.builtins.setdefault(kind, BuiltinMeta(kind, (cls,), {"KIND": kind, "__module__": "nodes"}))


InterruptProcessingException = Interrupted
