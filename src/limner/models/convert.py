"""Other names for the same weights: diffusers and OpenCLIP layouts told in the reference checkpoints' names.

Everything here works on names and lazy tensors; nothing is read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def is_diffusers_unet(names: Collection[str]) -> bool:
    """Whether these are a UNet's tensors as diffusers names them."""
    return "conv_in.weight" in names and any(name.startswith("down_blocks.0.resnets.0.") for name in names)


def unet_modules(blocks: Sequence[int]) -> dict[str, str]:
    """Modules of a UNet: diffusers' name → the reference's.

    blocks: residual blocks of each level on the way down. An upsampler has two possible places, behind a transformer
    or not: it is given as `output_blocks.N.{}.conv`.
    """
    found = dict(_UNET_ENDS)

    def resnet(diffusers: str, reference: str) -> None:
        found.update({f"{diffusers}.{ours}": f"{reference}.{theirs}" for ours, theirs in _RESNET.items()})

    place = 1
    for level, count in enumerate(blocks):
        for number in range(count):
            resnet(f"down_blocks.{level}.resnets.{number}", f"input_blocks.{place}.0")
            found[f"down_blocks.{level}.attentions.{number}"] = f"input_blocks.{place}.1"
            place += 1
        if level < len(blocks) - 1:
            found[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{place}.0.op"
            place += 1
    resnet("mid_block.resnets.0", "middle_block.0")
    found["mid_block.attentions.0"] = "middle_block.1"
    resnet("mid_block.resnets.1", "middle_block.2")
    place = 0
    for level, count in enumerate(reversed(blocks)):
        for number in range(count + 1):
            resnet(f"up_blocks.{level}.resnets.{number}", f"output_blocks.{place}.0")
            found[f"up_blocks.{level}.attentions.{number}"] = f"output_blocks.{place}.1"
            place += 1
        if level < len(blocks) - 1:
            found[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{place - 1}.{{}}.conv"
    return found


def unet_aliases(names: Collection[str], blocks: Sequence[int]) -> dict[str, str]:
    """Diffusers' name of each weight of a UNet that has the reference's names: alias → name, both without suffix.

    names: the reference's tensor names. Only weights are named, and only those that are there.
    """
    inside = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
    found: dict[str, str] = {}
    for alias, module in unet_modules(blocks).items():
        for candidate in (module.format(1), module.format(2)) if "{}" in module else (module,):
            if candidate in inside:
                found[alias] = candidate
            if ".attentions." in alias:
                # where there is no transformer, an upsampling layer may stand at its place
                there = [name for name in inside if name.startswith(candidate + ".") and not name.endswith(".conv")]
                found |= {alias + name[len(candidate) :]: name for name in there}
    return found


def unet_from_diffusers(header: CheckpointHeader) -> CheckpointHeader:
    """A diffusers UNet under the reference's names; what has no such name keeps its own."""
    counts: list[int] = []
    while f"down_blocks.{len(counts)}.resnets.0.conv1.weight" in header:
        counts.append(header.count(f"down_blocks.{len(counts)}.resnets.{{}}.conv1.weight"))
    modules = unet_modules(counts)
    pattern = re.compile(r"((?:down|up)_blocks\.\d+\.attentions\.\d+|mid_block\.attentions\.0)\.(.*)")

    def renamed(name: str) -> str:
        module, _, leaf = name.rpartition(".")
        if (inner := pattern.match(name)) and inner[1] in modules:
            return f"{modules[inner[1]]}.{inner[2]}"
        if module not in modules:
            return name
        level = module.split(".")[1] if ".upsamplers." in module else ""
        behind = f"up_blocks.{level}.attentions.0.norm.weight" in header
        return f"{modules[module].format(2 if behind else 1)}.{leaf}"

    return header.rename(renamed)


_VAE_ATTENTION = {
    "group_norm": "norm",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip


def vae_from_diffusers(header: CheckpointHeader) -> CheckpointHeader:
    """A diffusers AutoencoderKL under the reference's names; the header itself when it has those already."""
    if "decoder.up_blocks.0.resnets.0.norm1.weight" not in header:
        return header
    levels = header.count("decoder.up_blocks.{}.resnets.0.norm1.weight")
    tensors: dict[str, LazyTensor] = {}
    for name, entry in header.tensors.items():
        new = _vae_name(name, levels)
        linear = ".mid.attn_1." in new and new.endswith(".weight") and len(entry.shape) == 2
        tensors[new] = entry.reshape(*entry.shape, 1, 1) if linear else entry
    return replace(header, tensors=tensors)


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if match := re.match(r"(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)$", name):
        return f"{match[1]}mid.attn_1.{_VAE_ATTENTION.get(match[2], match[2])}.{match[3]}"
    return name


_OPEN_CLIP = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
_OPEN_CLIP_ENDS = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_CLIP_ROOTS = ("embeddings.", "encoder.", "final_layer_norm.")


def clip_text(header: CheckpointHeader) -> CheckpointHeader:
    """A CLIP text encoder under transformers' names, from those, the older ones without `text_model.`, or OpenCLIP's.

    A bare `text_projection` is stored the other way round, so it is transposed. Index buffers are left out.
    """
    tensors: dict[str, LazyTensor] = {}
    inside = "model." if "model.positional_embedding" in header else ""
    for whole, entry in ((name.removeprefix(inside), entry) for name, entry in header.tensors.items()):
        name = whole if whole.startswith("transformer.resblocks.") else whole.removeprefix("transformer.")
        if name.endswith("position_ids") or name == "logit_scale":
            continue
        if name.startswith("transformer.resblocks."):
            tensors |= _open_clip_layer(name, entry, "text_model")
        elif name in _OPEN_CLIP_ENDS:
            tensors[_OPEN_CLIP_ENDS[name]] = entry
        elif name == "text_projection":
            tensors["text_projection.weight"] = entry.transpose()
        elif name.startswith(_CLIP_ROOTS):
            tensors["text_model." + name] = entry
        else:
            tensors[name] = entry
    return replace(header, tensors=tensors)


def _open_clip_layer(name: str, entry: LazyTensor, tower: str) -> Mapping[str, LazyTensor]:
    _, _, number, rest = name.split(".", 3)
    root = f"{tower}.encoder.layers.{number}"
    module, _, leaf = rest.rpartition(".")
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        leaf, rows = rest.rpartition("_")[2], entry.shape[0] // 3
        return {f"{root}.self_attn.{part}_proj.{leaf}": entry.narrow(i * rows, rows) for i, part in enumerate("qkv")}
    return {f"{root}.{_OPEN_CLIP.get(module, module)}.{leaf}": entry}


_OPEN_CLIP_VISION = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_CLIP_VISION_ROOTS = ("vision_model.", "visual_projection.", "multi_modal_projector.")


def clip_vision(header: CheckpointHeader) -> CheckpointHeader:
    """A vision encoder under transformers' names, from those (`vision_model.` or not) or OpenCLIP's; nothing else.

    OpenCLIP's `proj` is stored the other way round, so it is transposed. Index buffers are left out, and the pooling
    head of SigLIP, which nobody reads.
    """
    part = header.select("visual.") if "visual.conv1.weight" in header else header
    if "embeddings.patch_embedding.weight" in part:  # the tower alone
        part = part.rename(lambda name: name if name.startswith(_CLIP_VISION_ROOTS) else f"vision_model.{name}")
    tensors: dict[str, LazyTensor] = {}
    for name, entry in part.tensors.items():
        if name.startswith(_CLIP_VISION_ROOTS):
            if not name.endswith("position_ids") and not name.startswith("vision_model.head."):
                tensors[name] = entry
        elif "conv1.weight" not in part:
            continue
        elif name.startswith("transformer.resblocks."):
            tensors |= _open_clip_layer(name, entry, "vision_model")
        elif name in _OPEN_CLIP_VISION:
            tensors[f"vision_model.{_OPEN_CLIP_VISION[name]}"] = entry
        elif name == "proj":
            tensors["visual_projection.weight"] = entry.transpose()
    return replace(header, tensors=tensors)


def clip_to_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP text encoder's tensors under OpenCLIP's names: the other way round."""
    ends = {here: there for there, here in _OPEN_CLIP_ENDS.items()}
    modules = {here: there for there, here in _OPEN_CLIP.items()}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in ends:
            found[ends[name]] = tensor
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.t().contiguous()
        elif name.startswith("text_model.encoder.layers."):
            number, _, rest = name.removeprefix("text_model.encoder.layers.").partition(".")
            module, _, leaf = rest.rpartition(".")
            root = f"transformer.resblocks.{number}"
            if module == "self_attn.q_proj":
                parts = [tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
                found[f"{root}.attn.in_proj_{leaf}"] = torch.cat(parts)
            elif module not in ("self_attn.k_proj", "self_attn.v_proj"):
                found[f"{root}.{modules[module]}.{leaf}"] = tensor
        else:
            found[name] = tensor
    return found
