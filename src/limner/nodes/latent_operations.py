"""Operations on latents as values."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from limner.graph import Float, Int, Latent, node
from limner.nodes.kinds import LATENT_OPERATION
from limner.sampling import latent_operations as operations

operation_node = partial(
    node,
    category="latent/advanced/operations",
    title="",
    python_module="comfy_extras.nodes_latent",
    style="v3",
    experimental=True,
)


@operation_node("LatentApplyOperation")
def apply_operation(samples: Latent, operation: LATENT_OPERATION) -> Latent:
    """A latent after an operation.

    samples: the latent.
    operation: what is done.
    """
    return {**samples, "samples": operation(latent=samples["samples"])}


@operation_node("LatentOperationTonemapReinhard")
def tonemap(multiplier: Annotated[float, Float(min=0.0, max=100.0, step=0.01)] = 1.0) -> LATENT_OPERATION:
    """Long channel vectors shortened, softly.

    multiplier: of the length that none exceeds.
    """
    return operations.reinhard(multiplier)


@operation_node("LatentOperationSharpen")
def sharpen(
    sharpen_radius: Annotated[int, Int(min=1, max=31, step=1)] = 9,
    sigma: Annotated[float, Float(min=0.1, max=10.0, step=0.1)] = 1.0,
    alpha: Annotated[float, Float(min=0.0, max=5.0, step=0.01)] = 0.1,
) -> LATENT_OPERATION:
    """Directions of the channel vectors sharpened.

    sharpen_radius: in cells.
    sigma: width of the blur, relative to the radius.
    alpha: how strongly.
    """
    return operations.sharpen(sharpen_radius, sigma, alpha)
