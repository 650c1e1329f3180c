"""The objects that only nodes hand to each other: models, text encoders, autoencoders. (No nodes here.)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from limner.graph import Kind

if TYPE_CHECKING:
    from limner.models.autoencoder import VAE as AnyVAE  # noqa: N811
    from limner.models.clip import CLIP as AnyCLIP  # noqa: N811
    from limner.models.model import Model as AnyModel
else:
    # annotations are read at run time, and schemas need no network code
    AnyVAE = AnyCLIP = AnyModel = Any

MODEL = Annotated[AnyModel, Kind("MODEL")]
"""A diffusion model."""
CLIP = Annotated[AnyCLIP, Kind("CLIP")]
"""A text encoder with its tokenizer."""
VAE = Annotated[AnyVAE, Kind("VAE")]
"""An autoencoder."""
