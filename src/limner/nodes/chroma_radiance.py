"""Options of Chroma Radiance, which draws pixels without an autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from limner.graph import Float, Int, node
from limner.nodes.kinds import MODEL


@node("ChromaRadianceOptions", category="model_patches/chroma_radiance", title="", style="v3",
      python_module="comfy_extras.nodes_chroma_radiance")  # fmt: skip
def options(
    model: MODEL,
    preserve_wrapper: bool = True,
    start_sigma: Annotated[float, Float(min=0.0, max=1.0)] = 1.0,
    end_sigma: Annotated[float, Float(min=0.0, max=1.0)] = 0.0,
    nerf_tile_size: Annotated[int, Int(min=-1)] = -1,
) -> MODEL:
    """How the pixels of a picture are made.

    model: a Chroma Radiance model.
    preserve_wrapper: whether a wrapper that another node has put round the model stays.
    start_sigma, end_sigma: the noise levels between which the options hold.
    nerf_tile_size: how many patches are drawn at once; 0 for all, -1 for as many as is usual.
    """
    if nerf_tile_size < 0:
        return model
    changed = model.clone()
    inner = changed.model_options.get("model_function_wrapper") if preserve_wrapper else None
    chosen = {"nerf_tile_size": nerf_tile_size}
    changed.set_model_unet_function_wrapper(with_options(chosen, (end_sigma, start_sigma), inner))
    return changed


def with_options(
    chosen: Mapping[str, Any], between: tuple[float, float], inner: Callable[..., Any] | None
) -> Callable[[Callable[..., Any], Mapping[str, Any]], Any]:
    """A wrapper of a model's pass that tells it the options between two noise levels; `inner` is called inside it."""

    def wrapper(apply: Callable[..., Any], args: Mapping[str, Any]) -> Any:
        conditions = dict(args["c"])
        if between[0] <= float(args["timestep"][0]) <= between[1]:
            told = dict(conditions.get("transformer_options") or {})
            conditions["transformer_options"] = told | {"chroma_radiance_options": dict(chosen)}
        if inner is not None:
            return inner(apply, {**args, "c": conditions})
        return apply(args["input"], args["timestep"], **conditions)

    return wrapper
