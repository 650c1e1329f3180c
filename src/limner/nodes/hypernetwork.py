"""Hypernetworks."""

from __future__ import annotations

from typing import Annotated

from limner.graph import Float, Folder, Run, node
from limner.models.hypernetwork import load_hypernetwork
from limner.nodes.kinds import MODEL


@node(
    "HypernetworkLoader",
    category="loaders",
    title="",
    python_module="comfy_extras.nodes_hypernetwork",
    style="v3",
)
def load(
    run: Run,
    model: MODEL,
    hypernetwork_name: Annotated[str, Folder("hypernetworks")],
    strength: Annotated[float, Float(min=-10.0, max=10.0, step=0.01)] = 1.0,
) -> MODEL:
    """A diffusion model whose attention goes through a hypernetwork.

    model: the diffusion model.
    hypernetwork_name: the file.
    strength: how strongly; may be negative.
    """
    patch = load_hypernetwork(run.store.folders.path("hypernetworks", hypernetwork_name), strength)
    changed = model.clone()
    changed.set_model_attn1_patch(patch)
    changed.set_model_attn2_patch(patch)
    return changed
