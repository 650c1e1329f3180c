"""Controls: what a picture is to follow beside the text. ControlNets and T2I adapters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from limner.graph import Choice, Conditioning, Float, Folder, Image, Mask, Run, node
from limner.models.control.load import load_controlnet
from limner.nodes.kinds import CONTROL_NET, MODEL, VAE
from limner.sampling.resize import common_upscale

UNION_TYPES = (
    "openpose", "depth", "hed/pidi/scribble/ted", "canny/lineart/anime_lineart/mlsd", "normal", "segment", "tile",
    "repaint",
)  # fmt: skip
"""What a union ControlNet can follow, by its numbers."""

Strength = Annotated[float, Float(min=0.0, max=10.0, step=0.01)]
Percent = Annotated[float, Float(min=0.0, max=1.0, step=0.001)]
ControlName = Annotated[str, Folder("controlnet")]

control_node = partial(node, category="conditioning/controlnet")


class Controlled(NamedTuple):
    """Both conditionings, with the control."""

    positive: Conditioning
    negative: Conditioning


@node("ControlNetLoader", category="loaders", title="Load ControlNet Model")
def load_control_net(run: Run, control_net_name: ControlName) -> CONTROL_NET:
    """A ControlNet or T2I adapter from a file."""
    return load_controlnet(run.store.folders.path("controlnet", control_net_name), run.memory)


@node("DiffControlNetLoader", category="loaders", title="Load ControlNet Model (diff)")
def load_difference_control_net(run: Run, model: MODEL, control_net_name: ControlName) -> CONTROL_NET:
    """A ControlNet from a file that holds the differences to a model's weights, and that model."""
    return load_controlnet(run.store.folders.path("controlnet", control_net_name), run.memory, model)


@control_node("ControlNetApply", title="Apply ControlNet (OLD)", deprecated=True)
def apply_control_net(
    conditioning: Conditioning, control_net: CONTROL_NET, image: Image, strength: Strength = 1.0
) -> Conditioning:
    """The conditioning with a control, which also holds for a negative one that has none.

    The image, which is what is to be followed, is cut and resized to the latent's size.
    """
    if strength == 0:
        return conditioning
    result = []
    for tensor, options in conditioning:
        control = control_net.copy().set_cond_hint(image.movedim(-1, 1), strength)
        if options.get("control") is not None:
            control.set_previous_controlnet(options["control"])
        result.append([tensor, {**options, "control": control, "control_apply_to_uncond": True}])
    return result


@control_node("ControlNetApplyAdvanced", title="Apply ControlNet")
def apply_control_net_advanced(
    positive: Conditioning,
    negative: Conditioning,
    control_net: CONTROL_NET,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    vae: VAE | None = None,
) -> Controlled:
    """Both conditionings with a control, for a part of the sampling (0 is its start, 1 its end); they may be chained.

    The image is cut and resized to the latent's size. ControlNets that follow latents (SD3, Flux, Qwen-Image) need a
    VAE to encode it.
    """
    return apply_to_both(positive, negative, control_net, image, strength, (start_percent, end_percent), vae)


@control_node(
    "ControlNetApplySD3",
    title="Apply Controlnet with VAE",
    python_module="comfy_extras.nodes_sd3",
    style="v3",
    deprecated=True,
)
def apply_control_net_with_vae(
    positive: Conditioning,
    negative: Conditioning,
    control_net: CONTROL_NET,
    vae: VAE,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> Controlled:
    """The same with a VAE, which Apply ControlNet can have too."""
    return apply_to_both(positive, negative, control_net, image, strength, (start_percent, end_percent), vae)


@control_node("ControlNetInpaintingAliMamaApply", title="", python_module="comfy_extras.nodes_controlnet", style="v3")
def apply_inpainting_control_net(
    positive: Conditioning,
    negative: Conditioning,
    control_net: CONTROL_NET,
    vae: VAE,
    image: Image,
    mask: Mask,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> Controlled:
    """Both conditionings with a control that paints something new where the mask is 1.

    There the image is blackened, if the ControlNet takes a mask.
    """
    masks: list[Any] = []
    if control_net.concat_mask:
        kept = 1.0 - mask.reshape(-1, 1, *mask.shape[-2:])
        shown = common_upscale(kept, image.shape[2], image.shape[1], "bilinear", "center").round()
        image = image * shown.movedim(1, -1).expand(-1, -1, -1, image.shape[3])
        masks = [kept]
    return apply_to_both(positive, negative, control_net, image, strength, (start_percent, end_percent), vae, masks)


@control_node("SetUnionControlNetType", title="", python_module="comfy_extras.nodes_controlnet", style="v3")
def set_union_type(
    control_net: CONTROL_NET,
    type: Annotated[str, Choice(("auto", *UNION_TYPES))],  # noqa: A002 - the name that prompts use
) -> CONTROL_NET:
    """A union ControlNet, told what it is shown; auto leaves it to the network."""
    chosen: CONTROL_NET = control_net.copy()
    chosen.set_extra_arg("control_type", [] if type == "auto" else [UNION_TYPES.index(type)])
    return chosen


def apply_to_both(
    positive: Conditioning,
    negative: Conditioning,
    control_net: Any,
    image: Image,
    strength: float,
    part: tuple[float, float],
    vae: Any = None,
    masks: Sequence[Any] = (),
) -> Controlled:
    """Both with a control of which there is one for each control that it follows, so that they are run together."""
    if strength == 0:
        return Controlled(positive, negative)
    hint = image.movedim(-1, 1)
    made: dict[int, Any] = {}

    def controlled(conditioning: Conditioning) -> Conditioning:
        result = []
        for tensor, options in conditioning:
            previous = options.get("control")
            if id(previous) not in made:
                control = control_net.copy().set_cond_hint(hint, strength, part, vae=vae, extra_concat=masks)
                control.set_previous_controlnet(previous)
                made[id(previous)] = control
            entries = {**options, "control": made[id(previous)], "control_apply_to_uncond": False}
            result.append([tensor, entries])
        return result

    return Controlled(controlled(positive), controlled(negative))
