"""Long batches and videos in windows."""

from __future__ import annotations

from typing import Annotated

from limner.graph import Choice, Int, node
from limner.nodes.kinds import MODEL
from limner.sampling.context_windows import FUSIONS, SCHEDULES, Windows, in_windows
from limner.sampling.wrappers import WrappersMP


@node(
    "ContextWindowsManual",
    category="context",
    title="Context Windows (Manual)",
    python_module="comfy_extras.nodes_context_windows",
    style="v3",
    experimental=True,
)
def context_windows(
    *,
    model: MODEL,
    context_length: Annotated[int, Int(min=1)] = 16,
    context_overlap: Annotated[int, Int(min=0)] = 4,
    context_schedule: Annotated[str, Choice(SCHEDULES)],
    context_stride: Annotated[int, Int(min=1)] = 1,
    closed_loop: bool = False,
    fuse_method: Annotated[str, Choice(FUSIONS)] = "pyramid",
    dim: Annotated[int, Int(min=0, max=5)] = 0,
) -> MODEL:
    """A batch or a video longer than the model can take, predicted in overlapping windows.

    model: the diffusion model.
    context_length: frames of a window.
    context_overlap: frames that neighbours share.
    context_schedule: where the windows are.
    context_stride: how far apart the frames of a window may be, for uniform schedules.
    closed_loop: the end is next to the beginning, for looped schedules.
    fuse_method: how the frames of a window are weighed.
    dim: which axis is cut; 0 is the batch, 2 the frames of a video.
    """
    windows = Windows(context_length, context_overlap, context_schedule, context_stride, closed_loop, fuse_method, dim)
    changed = model.clone()
    changed.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "ContextWindows", in_windows(windows))
    return changed
