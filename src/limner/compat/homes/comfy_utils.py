"""comfy.utils: files of tensors, state dicts, resizing, tiles and progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.compat.homes._services import memory
from limner.graph import CURRENT_RUN
from limner.models.convert import unet_modules
from limner.models.tiling import tiled_scale_multidim as _tiled
from limner.sampling import resize
from limner.sampling.condition_values import repeat_to_batch
from limner.weights import CheckpointHeader, save

MMAP_TORCH_FILES = False
DISABLE_MMAP = False
ALWAYS_SAFE_LOAD = True
PROGRESS_BAR_ENABLED = True
PROGRESS_BAR_HOOK: Callable[..., Any] | None = None

TRANSFORMER_BLOCKS = {
    f"{part}.{end}"
    for end in ("weight", "bias")
    for part in (
        "norm1", "norm2", "norm3", "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
        "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2",
    )
    if end == "weight" or not part.endswith(("to_q", "to_k", "to_v"))
}  # fmt: skip
UNET_MAP_ATTENTIONS = {f"{part}.{end}" for part in ("proj_in", "proj_out", "norm") for end in ("weight", "bias")}
UNET_MAP_RESNET = {
    f"{theirs}.{end}": f"{ours}.{end}"
    for end in ("weight", "bias")
    for theirs, ours in (
        ("in_layers.2", "conv1"), ("emb_layers.1", "time_emb_proj"), ("out_layers.3", "conv2"),
        ("skip_connection", "conv_shortcut"), ("in_layers.0", "norm1"), ("out_layers.0", "norm2"),
    )
}  # fmt: skip
UNET_MAP_BASIC = {
    (f"{theirs}.{end}", f"{ours}.{end}")
    for end in ("weight", "bias")
    for theirs, ours in (
        ("label_emb.0.0", "class_embedding.linear_1"), ("label_emb.0.2", "class_embedding.linear_2"),
        ("label_emb.0.0", "add_embedding.linear_1"), ("label_emb.0.2", "add_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"), ("out.0", "conv_norm_out"), ("out.2", "conv_out"),
        ("time_embed.0", "time_embedding.linear_1"), ("time_embed.2", "time_embedding.linear_2"),
    )
}  # fmt: skip


# -- files ------------------------------------------------------------------------------------------------------------


def load_torch_file(
    ckpt: str | Path, safe_load: bool = False, device: Any = None, return_metadata: bool = False
) -> Any:
    """The tensors of a safetensors file or a pickled checkpoint by name, on `device` (the CPU where None).

    Pickles are always read without running what they hold. return_metadata: a pair with the file's metadata, or None.
    """
    del safe_load
    header = CheckpointHeader.read(ckpt, use_mmap=not memory().settings.disable_mmap)
    found = {name: header.tensor(name) for name in header}
    if device is not None and torch.device(device).type != "cpu":
        found = {name: memory().place(tensor, torch.device(device)) for name, tensor in found.items()}
    return (found, dict(header.metadata) or None) if return_metadata else found


def save_torch_file(sd: Mapping[str, Tensor], ckpt: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file."""
    save(ckpt, {name: tensor.contiguous() for name, tensor in sd.items()}, metadata)


def safetensors_header(safetensors_path: str | Path, max_size: int = 100 * 1024 * 1024) -> bytes | None:
    """The header's JSON as it is in the file; None for one longer than `max_size`."""
    with Path(safetensors_path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return None if length > max_size else file.read(length)


# -- state dicts ------------------------------------------------------------------------------------------------------


def calculate_parameters(sd: Mapping[str, Tensor], prefix: str = "") -> int:
    """How many numbers the tensors under a prefix hold."""
    return sum(tensor.nelement() for name, tensor in sd.items() if name.startswith(prefix))


def weight_dtype(sd: Mapping[str, Tensor], prefix: str = "") -> torch.dtype | None:
    """The dtype that most numbers under a prefix have, or None where there are none."""
    counts: dict[torch.dtype, int] = {}
    for name, tensor in sd.items():
        if name.startswith(prefix):
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda dtype: counts[dtype]) if counts else None


def state_dict_key_replace(state_dict: dict[str, Any], keys_to_replace: Mapping[str, str]) -> dict[str, Any]:
    """Rename entries in place."""
    for old, new in keys_to_replace.items():
        if old in state_dict:
            state_dict[new] = state_dict.pop(old)
    return state_dict


def state_dict_prefix_replace(
    state_dict: dict[str, Any], replace_prefix: Mapping[str, str], filter_keys: bool = False
) -> dict[str, Any]:
    """Rename entries that begin with a prefix: in place, or with filter_keys moved into a new dict."""
    target: dict[str, Any] = {} if filter_keys else state_dict
    for old, new in replace_prefix.items():
        for name in [name for name in state_dict if name.startswith(old)]:
            target[new + name[len(old) :]] = state_dict.pop(name)
    return target


def convert_sd_to(state_dict: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor in a dtype, in place."""
    state_dict.update({name: tensor.to(dtype) for name, tensor in state_dict.items()})
    return state_dict


def unet_to_diffusers(unet_config: Mapping[str, Any]) -> dict[str, str]:
    """Tensor names of a UNet: diffusers' → the reference's, for a config with the reference's argument names."""
    if "num_res_blocks" not in unet_config:
        return {}
    found: dict[str, str] = {}
    depths = [*unet_config["transformer_depth"]]
    ups = list(unet_config["transformer_depth_output"])[::-1]
    blocks = list(unet_config["num_res_blocks"])
    inside = _block_depths(blocks, depths, ups, int(unet_config.get("transformer_depth_middle", 0)))
    for alias, module in unet_modules(blocks).items():
        if ".attentions." in alias:
            depth = inside.get(alias, 0)
            if depth > 0:
                found |= {f"{alias}.{leaf}": f"{module}.{leaf}" for leaf in UNET_MAP_ATTENTIONS}
                for number in range(depth):
                    block = f"transformer_blocks.{number}"
                    found |= {f"{alias}.{block}.{leaf}": f"{module}.{block}.{leaf}" for leaf in TRANSFORMER_BLOCKS}
            continue
        if "{}" in module:
            level = alias.split(".")[1]
            module = module.format(2 if inside.get(f"up_blocks.{level}.attentions.0", 0) > 0 else 1)  # noqa: PLW2901
        found |= {f"{alias}.{end}": f"{module}.{end}" for end in ("weight", "bias")}
    return found


def _block_depths(blocks: list[int], down: list[int], up: list[int], middle: int) -> dict[str, int]:
    """How many transformers stand at each of diffusers' attentions."""
    found = {"mid_block.attentions.0": middle}
    downs, ups = iter(down), iter(up)
    for level, count in enumerate(blocks):
        found |= {f"down_blocks.{level}.attentions.{number}": next(downs, 0) for number in range(count)}
    for level, count in enumerate(reversed(blocks)):
        found |= {f"up_blocks.{level}.attentions.{number}": next(ups, 0) for number in range(count + 1)}
    return found


def swap_scale_shift(weight: Tensor) -> Tensor:
    """The two halves of a modulation's weight the other way round."""
    shift, scale = weight.chunk(2, dim=0)
    return torch.cat((scale, shift), dim=0)


# -- attributes -------------------------------------------------------------------------------------------------------


def get_attr(obj: Any, attr: str) -> Any:
    """An attribute by its dotted name; numbers go into lists."""
    for part in attr.split("."):
        obj = getattr(obj, part)
    return obj


def set_attr(obj: Any, attr: str, value: Any) -> Any:
    """Replace an attribute by its dotted name. Returns what was there."""
    owner, _, leaf = attr.rpartition(".")
    target = get_attr(obj, owner) if owner else obj
    before = getattr(target, leaf)
    setattr(target, leaf, value)
    return before


def set_attr_param(obj: Any, attr: str, value: Tensor) -> Any:
    """Replace an attribute by a parameter."""
    return set_attr(obj, attr, nn.Parameter(value, requires_grad=False))


def copy_to_param(obj: Any, attr: str, value: Tensor) -> None:
    """Write into the parameter that is there, whose shape stays."""
    parameter: Tensor = get_attr(obj, attr)
    parameter.data.copy_(value)


# -- batches ----------------------------------------------------------------------------------------------------------


def repeat_to_batch_size(tensor: Tensor, batch_size: int, dim: int = 0) -> Tensor:
    """Cut to, or repeated up to, `batch_size` along an axis."""
    return repeat_to_batch(tensor, batch_size, dim)


def resize_to_batch_size(tensor: Tensor, batch_size: int) -> Tensor:
    """Rows spread evenly over another number of rows: left out, or repeated one behind the other."""
    length = tensor.shape[0]
    if length == batch_size:
        return tensor
    if batch_size <= 1:
        return tensor[:batch_size]
    return tensor[_spread(length, batch_size)]


def resize_list_to_batch_size(l: Sequence[Any], batch_size: int) -> list[Any]:  # noqa: E741 - the published name
    """The same for a list."""
    if len(l) == batch_size or len(l) == 0:
        return list(l)
    if batch_size <= 1:
        return list(l[:batch_size])
    return [l[index] for index in _spread(len(l), batch_size)]


def _spread(length: int, wanted: int) -> list[int]:
    if wanted < length:
        return [round(k * (length - 1) / (wanted - 1)) for k in range(wanted)]
    return [min(math.floor((k + 0.5) * length / wanted), length - 1) for k in range(wanted)]


def pack_latents(latents: Sequence[Tensor]) -> tuple[Tensor, list[torch.Size]]:
    """Latents of several shapes as one (B, 1, N), and their shapes."""
    packed = torch.cat([latent.reshape(latent.shape[0], 1, -1) for latent in latents], dim=-1)
    return packed, [latent.shape for latent in latents]


def unpack_latents(combined_latent: Tensor, latent_shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The latents that `pack_latents` packed."""
    if len(latent_shapes) <= 1:
        return [combined_latent]
    found, start = [], 0
    for shape in latent_shapes:
        length = math.prod(shape[1:])
        part = combined_latent[..., start : start + length]
        found.append(part.reshape(part.shape[0], *shape[1:]))
        start += length
    return found


# -- pictures ---------------------------------------------------------------------------------------------------------


def reshape_mask(input_mask: Tensor, output_shape: Sequence[int]) -> Tensor:
    """A mask of any size as one shaped like a latent."""
    from limner.sampling.prepare import prepare_mask  # noqa: PLC0415 - one use

    return prepare_mask(input_mask, torch.Size(output_shape))


def upscale_dit_mask(mask: Tensor, img_size_in: Sequence[int], img_size_out: Sequence[int]) -> Tensor:
    """A mask over text and picture tokens at another size of the picture; the text's part stays as it is."""
    from limner.models.layers.masks import resized_mask  # noqa: PLC0415 - one use

    return resized_mask(mask, (img_size_in[0], img_size_in[1]), (img_size_out[0], img_size_out[1]))


def get_tiled_scale_steps(width: int, height: int, tile_x: int, tile_y: int, overlap: int) -> int:
    """How many tiles `tiled_scale` makes of one picture."""
    rows = 1 if height <= tile_y else math.ceil((height - overlap) / (tile_y - overlap))
    columns = 1 if width <= tile_x else math.ceil((width - overlap) / (tile_x - overlap))
    return rows * columns


def tiled_scale_multidim(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    tile: Sequence[int] = (64, 64),
    overlap: Any = 8,
    upscale_amount: Any = 4,
    out_channels: int = 3,
    output_device: Any = "cpu",
    downscale: bool = False,
    index_formulas: Any = None,
    pbar: Any = None,
) -> Tensor:
    """`function` applied tile by tile over any number of axes, edges faded into each other."""
    return _tiled(
        samples,
        function,
        tuple(tile),
        overlap=overlap,
        scale=upscale_amount,
        out_channels=out_channels,
        downscale=downscale,
        index_formulas=index_formulas,
        done=None if pbar is None else lambda: pbar.update(1),
        place=lambda tensor: memory().place(tensor, torch.device(output_device)),
    )


def tiled_scale(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    tile_x: int = 64,
    tile_y: int = 64,
    overlap: int = 8,
    upscale_amount: float = 4,
    out_channels: int = 3,
    output_device: Any = "cpu",
    pbar: Any = None,
) -> Tensor:
    """The same for pictures (B, C, H, W)."""
    return tiled_scale_multidim(
        samples, function, (tile_y, tile_x), overlap, upscale_amount, out_channels, output_device, pbar=pbar
    )


def bislerp(samples: Tensor, width: int, height: int) -> Tensor:
    """Latents resized with their directions turned and their lengths mixed."""
    return resize.bislerp(samples, width, height)


def lanczos(samples: Tensor, width: int, height: int) -> Tensor:
    """Pictures resized by Pillow's Lanczos filter, in eight bits a channel."""
    return resize.lanczos(samples, width, height)


# -- progress ---------------------------------------------------------------------------------------------------------


def set_progress_bar_enabled(enabled: bool) -> None:
    """Switch the bars of packs on the terminal on or off."""
    globals()["PROGRESS_BAR_ENABLED"] = enabled


def set_progress_bar_global_hook(function: Callable[..., Any] | None) -> None:
    """Have a function called with (done, total, preview[, node_id]) in the place of the running node's progress."""
    globals()["PROGRESS_BAR_HOOK"] = function


class ProgressBar:
    """The progress of the running node, as packs report it. total: how many steps there are."""

    def __init__(self, total: float, node_id: str | None = None) -> None:
        self.total = total
        self.current: float = 0
        self.node_id = node_id
        self.hook = PROGRESS_BAR_HOOK
        self._run = CURRENT_RUN.get()

    def update_absolute(self, value: float, total: float | None = None, preview: Any = None) -> None:
        """So many steps are done. preview: (format, picture, largest side) or None.

        Raises Interrupted when the prompt was interrupted meanwhile.
        """
        if total is not None:
            self.total = total
        self.current = min(value, self.total)
        if self.hook is not None:
            self.hook(self.current, self.total, preview, node_id=self.node_id)
        elif self._run is not None:
            picture = preview[1] if isinstance(preview, tuple) else preview
            self._run.progress(self.current, self.total, picture)

    def update(self, value: float) -> None:
        """So many more steps are done."""
        self.update_absolute(self.current + value)
