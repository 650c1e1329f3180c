"""How far a sampling has come: reported after every step, with a preview where one is wanted. (No nodes here.)"""

from __future__ import annotations

import logging
from functools import partial

from torch import Tensor

from limner.errors import LimnerError
from limner.graph import CURRENT_RUN, Run
from limner.models.vae.taesd import TAESDConfig, TinyDecoder
from limner.nodes import _previewers
from limner.sampling.previews import Decoder
from limner.sampling.protocols import DiffusionModel
from limner.sampling.sampler import Callback
from limner.weights import CheckpointHeader, NetworkSource

_log = logging.getLogger(__name__)


def step_callback(run: Run, model: DiffusionModel) -> Callback:
    """What to call at each step with its number, the prediction, the latent and the number of steps.

    It raises Interrupted when the prompt was interrupted meanwhile.
    """
    # Looked up at each sampling: node packs replace it. It finds the settings by the current run.
    token = None if CURRENT_RUN.get() is not None else CURRENT_RUN.set(run)
    try:
        previewer = _previewers.get_previewer(getattr(model, "load_device", None), model.latent_format)
    finally:
        if token is not None:
            CURRENT_RUN.reset(token)

    def at_step(step: int, denoised: Tensor, _x: Tensor, total: int) -> None:
        preview = previewer.decode_latent_to_preview_image("JPEG", denoised) if previewer else None
        _previewers.report(run, step + 1, total, preview)

    return at_step


def tiny_decoder(run: Run, name: str | None) -> Decoder | None:
    """The decoder for previews whose file in `vae_approx` begins with this name; None, and a warning, without one."""
    files = run.store.folders.list("vae_approx")
    file = next((file for file in files if name is not None and file.startswith(name)), None)
    if file is None:
        _log.warning("There is no %s in vae_approx; previews are made from the latent directly.", name or "TAESD")
        return None
    try:
        header = CheckpointHeader.read(run.store.folders.path("vae_approx", file))
        config = TAESDConfig.from_state({f"taesd_decoder.{key}": size for key, size in header.shapes().items()}, {})
    except LimnerError as error:
        _log.warning("%s makes no previews: %s", file, error)
        return None
    source = NetworkSource("TAESD decoder", partial(TinyDecoder, config), header.tensors, header.identity)
    memory = run.memory
    precision = memory.vae_precision()

    def decode(latent: Tensor) -> Tensor:
        with memory.loaded(source, precision.storage, device=memory.vae_device) as network:
            pixels: Tensor = network(memory.place(latent.to(precision.compute), memory.vae_device))
        return (pixels - 0.5) * 2

    return decode
