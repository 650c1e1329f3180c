"""How far a sampling has come: reported after every step. (No nodes here.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from limner.graph import Run
from limner.models.model import Model


def step_callback(run: Run, model: Model) -> Callable[[int, Tensor, Tensor, int], None]:  # noqa: ARG001
    """What to call after each step with its number, the prediction, the latent and the number of steps.

    It raises Interrupted when the prompt was interrupted meanwhile.
    """

    def after_step(step: int, denoised: Tensor, x: Tensor, total: int) -> None:  # noqa: ARG001
        preview: Any = None
        run.progress(step + 1, total, preview)

    return after_step
