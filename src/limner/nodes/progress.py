"""How far a sampling has come: reported after every step, with a preview where one is wanted. (No nodes here.)"""

from __future__ import annotations

import logging

from torch import Tensor

from limner.graph import CURRENT_RUN, Run
from limner.nodes import _previewers
from limner.sampling.protocols import DiffusionModel
from limner.sampling.sampler import Callback

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
