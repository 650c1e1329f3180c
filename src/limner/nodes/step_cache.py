"""Steps guessed from the ones before, to save time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from limner.graph import Float, node
from limner.nodes.kinds import MODEL
from limner.sampling.step_cache import StepCache, around_guidance, around_network, around_run
from limner.sampling.wrappers import WrappersMP

Threshold = Annotated[float, Float(min=0.0, max=3.0, step=0.01)]
Percent = Annotated[float, Float(min=0.0, max=1.0, step=0.01)]

cache_node = partial(
    node,
    category="advanced/debug/model",
    python_module="comfy_extras.nodes_easycache",
    style="v3",
    experimental=True,
)


@cache_node("EasyCache", title="EasyCache")
def easy_cache(
    model: MODEL,
    reuse_threshold: Threshold = 0.2,
    start_percent: Percent = 0.15,
    end_percent: Percent = 0.95,
    verbose: bool = False,
) -> MODEL:
    """Steps of the network that are likely to change little are guessed.

    model: the diffusion model.
    reuse_threshold: how much they may change together until one is made again.
    start_percent: from where of the sampling on.
    end_percent: up to where.
    verbose: say in the log how many were guessed.
    """
    cache = _cache(model, reuse_threshold, start_percent, end_percent)
    return _wrapped(model, cache, WrappersMP.DIFFUSION_MODEL, around_network(cache), verbose, "EasyCache")


@cache_node("LazyCache", title="LazyCache")
def lazy_cache(
    model: MODEL,
    reuse_threshold: Threshold = 0.2,
    start_percent: Percent = 0.15,
    end_percent: Percent = 0.95,
    verbose: bool = False,
) -> MODEL:
    """The same for whole guided predictions, whatever the network is.

    model: the diffusion model.
    reuse_threshold: how much they may change together until one is made again.
    start_percent: from where of the sampling on.
    end_percent: up to where.
    verbose: say in the log how many were guessed.
    """
    cache = _cache(model, reuse_threshold, start_percent, end_percent)
    return _wrapped(
        model, cache, WrappersMP.PREDICT_NOISE, around_guidance(cache, model.sampling), verbose, "LazyCache"
    )


def _cache(model: MODEL, threshold: float, start: float, end: float) -> StepCache:
    return StepCache(threshold, *map(model.sampling.percent_to_sigma, (start, end)))


def _wrapped(model: MODEL, cache: StepCache, kind: str, wrapper: Callable[..., Any], verbose: bool, name: str) -> MODEL:
    changed = model.clone()
    changed.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, name, around_run(cache, verbose, name))
    changed.add_wrapper_with_key(kind, name, wrapper)
    return changed
