"""Models compiled for speed."""

from __future__ import annotations

from typing import Annotated

from limner.graph import Choice, node
from limner.models.compiling import set_torch_compile_wrapper
from limner.nodes.kinds import MODEL


@node(
    "TorchCompileModel",
    category="_for_testing",
    title="",
    python_module="comfy_extras.nodes_torch_compile",
    style="v3",
    experimental=True,
)
def torch_compile(model: MODEL, backend: Annotated[str, Choice(("inductor", "cudagraphs"))]) -> MODEL:
    """The network compiled at the first step: that one takes long, the others are faster.

    model: the diffusion model.
    backend: what compiles it.
    """
    compiled = model.clone()
    set_torch_compile_wrapper(model=compiled, backend=backend)
    return compiled
