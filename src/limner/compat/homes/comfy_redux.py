"""comfy.ldm.flux.redux: FLUX.1 Redux's network."""

from __future__ import annotations

from typing import Any

import torch

from limner.compat.homes.stands_for import StandsFor
from limner.models.style_models import ReduxImageEncoder as Own


class ReduxImageEncoder(Own, metaclass=StandsFor):
    """The network by its dimensions; those that files hold are instances too."""

    recognises = staticmethod(lambda instance: isinstance(instance, Own))

    def __init__(
        self,
        redux_dim: int = 1152,
        txt_in_features: int = 4096,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        with torch.device("cpu" if device is None else device):
            super().__init__(redux_dim, txt_in_features)
        if dtype is not None:
            self.type(dtype)
