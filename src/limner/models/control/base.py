"""What controls have in common: a hint, a strength, a range, and the control before them in a chain.

The names are those that node packs use: they derive controls of their own from `ControlBase`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.memory import casting
from limner.sampling.resize import common_upscale

Residuals = dict[str, list[Tensor | None]]
"""What is added inside a network, by its part ("input", "middle", "output"); see the network's `control`."""


class StrengthType(Enum):
    """Whether all residuals count the same, or deeper ones more."""

    CONSTANT = 1
    LINEAR_UP = 2


def unchanged(picture: Tensor) -> Tensor:
    """The picture as it is."""
    return picture


def broadcast_image_to(tensor: Tensor, target_batch_size: int, batched_number: int) -> Tensor:
    """Hints for a batch of `batched_number` conditions over the same latents.

    tensor: (B, …). One hint serves all latents; fewer than there are latents are repeated in order; more are cut.
    """
    count = tensor.shape[0]
    if count == 1:
        return tensor
    each = target_batch_size // batched_number
    tensor = tensor[:each]
    if each > tensor.shape[0]:
        tensor = torch.cat([tensor] * (each // tensor.shape[0]) + [tensor[: each % tensor.shape[0]]])
    return tensor if tensor.shape[0] == target_batch_size else torch.cat([tensor] * batched_number)


def told(given: Tensor | None, what: str, width: int) -> Tensor:
    """What the network must be told, of the right width."""
    if given is not None and given.shape[-1] == width:
        return given
    raise BadInput(
        f"The ControlNet takes a {what} {width} wide, the model gives {'none' if given is None else given.shape[-1]}.",
        why="They were made for different model families.",
        do="Use a ControlNet for the model's family.",
    )


class ControlBase:
    """A control in a chain: its hint, strength and range, and the one before it.

    cond_hint_original: the picture as given, (B, C, H, W) in 0..1. cond_hint: it as the network takes it, for the last
    size that was asked for. timestep_range: sigmas, while a run lasts. compression_ratio: pixels of the hint for one
    latent cell; with a latent_format, cells of the hint for one (the hint is then encoded by the autoencoder `vae`).
    concat_mask: whether a mask (`extra_concat_orig`) is joined to the hint's channels. extra_conds: entries of a
    condition that the network takes; extra_args: its other arguments. extra_hooks: hooks that hold where it is used.
    residuals_of_cell: numbers of its residuals for each latent cell.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self.cond_hint_original: Tensor | None = None
        self.cond_hint: Tensor | None = None
        self.strength = 1.0
        self.timestep_percent_range = (0.0, 1.0)
        self.latent_format: Any = None
        self.vae: Any = None
        self.global_average_pooling = False
        self.timestep_range: tuple[float, float] | None = None
        self.compression_ratio = 8
        self.upscale_algorithm = "nearest-exact"
        self.extra_args: dict[str, Any] = {}
        self.previous_controlnet: Any = None
        self.extra_conds: list[str] = []
        self.strength_type = StrengthType.CONSTANT
        self.concat_mask = False
        self.extra_concat_orig: list[Any] = []
        self.extra_concat: Any = None
        self.extra_hooks: Any = None
        self.preprocess_image: Callable[[Tensor], Tensor] = unchanged
        self.multigpu_clones: dict[Any, Any] = {}
        self.residuals_of_cell = 0.0

    # -- a chain --------------------------------------------------------------------------------------------------

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: Sequence[Any] = (),
    ) -> Any:
        """Follow this picture (B, C, H, W) in 0..1, in this part of the sampling (0 its beginning, 1 its end).

        vae: for controls that follow latents. extra_concat: masks (B, 1, H, W), for those that take one.

        Raises BadInput when the control needs a VAE or a mask and there is none.
        """
        if self.latent_format is not None and vae is None:
            raise BadInput(
                "This ControlNet needs a VAE.",
                why="It follows the latent of the picture, not the picture itself.",
                do="Connect the model's VAE to Apply ControlNet.",
            )
        if self.concat_mask and not extra_concat:
            raise BadInput(
                "This ControlNet needs a mask.",
                why="It was made for inpainting: it takes a mask beside the picture.",
                do="Apply it with ControlNetInpaintingAliMamaApply.",
            )
        self.cond_hint_original, self.strength = cond_hint, strength
        self.timestep_percent_range, self.vae, self.extra_concat_orig = timestep_percent_range, vae, list(extra_concat)
        self.cond_hint = None
        return self

    def set_previous_controlnet(self, controlnet: Any) -> Any:
        """Add that one's residuals."""
        self.previous_controlnet = controlnet
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        """An argument of the network."""
        self.extra_args[argument] = value

    def copy_to(self, c: Any) -> None:
        """Give a copy what this one has."""
        for name in (
            "cond_hint_original", "strength", "timestep_percent_range", "global_average_pooling", "compression_ratio",
            "upscale_algorithm", "latent_format", "vae", "strength_type", "concat_mask", "extra_hooks",
            "preprocess_image", "residuals_of_cell",
        ):  # fmt: skip
            setattr(c, name, getattr(self, name))
        c.extra_args = dict(self.extra_args)
        c.extra_conds = list(self.extra_conds)
        c.extra_concat_orig = list(self.extra_concat_orig)

    def copy(self) -> Any:
        """One with a hint of its own; the weights are shared."""
        raise NotImplementedError

    def get_models(self) -> list[Any]:
        """The networks of the chain."""
        return [] if self.previous_controlnet is None else list(self.previous_controlnet.get_models())

    def get_extra_hooks(self) -> list[Any]:
        """The hooks of the chain."""
        found = [] if self.extra_hooks is None else [self.extra_hooks]
        return found if self.previous_controlnet is None else found + self.previous_controlnet.get_extra_hooks()

    def inference_memory_requirements(self, dtype: Any) -> float:
        """Bytes that the chain computes with, beside the weights of `get_models`."""
        before = self.previous_controlnet
        return 0.0 if before is None else float(before.inference_memory_requirements(dtype))

    def residual_bytes(self, input_shape: Sequence[int], dtype: torch.dtype) -> float:
        """Bytes of the chain's residuals for latents of this shape (B, C, …): they stay while the model computes.

        Those that are scaled are there twice, if not at the same time as the most of the model.
        """
        before = self.previous_controlnet
        chain = 0.0 if before is None else getattr(before, "residual_bytes", lambda *_: 0.0)(input_shape, dtype)
        copies = 1 if self.strength == 1.0 else 2
        return chain + copies * self.residuals_of_cell * input_shape[0] * math.prod(input_shape[2:]) * dtype.itemsize

    # -- a run ----------------------------------------------------------------------------------------------------

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """A run of `model` begins."""
        start, end = self.timestep_percent_range
        self.timestep_range = percent_to_timestep_function(start), percent_to_timestep_function(end)
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        """The run has ended."""
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()
        self.cond_hint = self.extra_concat = self.timestep_range = None

    def previous_control(
        self, x_noisy: Tensor, t: Tensor, cond: Any, batched_number: int, transformer_options: Any
    ) -> Residuals | None:
        """What the control before this one adds."""
        if self.previous_controlnet is None:
            return None
        found: Residuals | None = self.previous_controlnet.get_control(
            x_noisy, t, cond, batched_number, transformer_options
        )
        return found

    def active(self, t: Tensor) -> bool:
        """Whether the noise level (the first of the batch) lies in the range; both ends belong to it."""
        if self.timestep_range is None:
            return True
        return self.timestep_range[1] <= float(t[0]) <= self.timestep_range[0]

    def control_merge(
        self, control: Mapping[str, Sequence[Tensor | None]], control_prev: Any, output_dtype: Any
    ) -> Residuals:
        """This one's residuals at its strength, with those of the one before. A residual that stands in several
        places is scaled, and added to another such, once.
        """
        out: Residuals = {"input": [], "middle": [], "output": []}
        scaled: dict[tuple[int, int], Tensor] = {}
        for part, residuals in control.items():
            mine = out.setdefault(part, [])
            for number, residual in enumerate(residuals):
                if residual is None:
                    mine.append(None)
                    continue
                depth = len(residuals) - number if self.strength_type == StrengthType.LINEAR_UP else 1
                place = (id(residual), depth)
                if place not in scaled:
                    scaled[place] = self._scaled(residual, depth, output_dtype)
                mine.append(scaled[place])
        sums: dict[tuple[int, int], Tensor] = {}
        for part, others in (control_prev or {}).items():
            mine = out.setdefault(part, [])
            for number, other in enumerate(others):
                here = mine[number] if number < len(mine) else None
                if other is not None and here is not None:
                    pair = (id(here), id(other))
                    if pair not in sums:
                        sums[pair] = here + other
                    merged: Tensor | None = sums[pair]
                else:
                    merged = here if other is None else other
                mine[number : number + 1] = [merged]
        return out

    def _scaled(self, residual: Tensor, depth: int, dtype: Any) -> Tensor:
        if self.global_average_pooling:
            residual = residual.mean(dim=(2, 3), keepdim=True).expand_as(residual)
        if self.strength != 1.0:
            residual = residual * math.pow(self.strength, depth)
        return residual if dtype is None else residual.to(dtype)

    # -- the hint -------------------------------------------------------------------------------------------------

    def hint_for(self, x_noisy: Tensor, batched_number: int) -> Tensor:
        """The hint as the network takes it, for latents like x_noisy (B, C, …, h, w): on their device, float32."""
        hint = self.cond_hint
        if hint is None or self._hint_size != tuple(x_noisy.shape[-2:]):
            self.cond_hint = None  # free it before the next is made
            hint = self.cond_hint = casting.cast_to(self.make_hint(x_noisy), device=x_noisy.device)
            self._hint_size = tuple(x_noisy.shape[-2:])
        if hint.shape[0] != x_noisy.shape[0]:
            return broadcast_image_to(hint, x_noisy.shape[0], batched_number)
        return hint

    _hint_size: tuple[int, ...] | None = None

    def make_hint(self, x_noisy: Tensor) -> Tensor:
        """The hint at the latents' size, encoded where the control follows latents, its mask joined."""
        if self.cond_hint_original is None:
            raise BadInput("A ControlNet without a picture.", do="Give it one with Apply ControlNet.")
        ratio = self.compression_ratio
        if self.latent_format is not None:
            ratio *= self.vae.spacial_compression_encode()
        height, width = (side * ratio for side in x_noisy.shape[-2:])
        hint = common_upscale(self.cond_hint_original, width, height, self.upscale_algorithm, "center")
        hint = self.preprocess_image(hint)
        if self.latent_format is not None:
            hint = self._encoded(hint.movedim(1, -1))
            if hint.shape[1] != self.latent_format.latent_channels:
                raise BadInput(
                    f"The ControlNet follows latents of {self.latent_format.latent_channels} channels, the VAE's have "
                    f"{hint.shape[1]}.",
                    why="They were made for different model families.",
                    do="Use a ControlNet for the model's family, and the model's VAE.",
                )
            hint = self.latent_format.process_in(hint)
        if self.concat_mask:
            hint = self._with_masks(hint)
        return hint

    def _encoded(self, pictures: Tensor) -> Tensor:
        """Latents of pictures (B, H, W, C). An autoencoder of video takes several for one after the other."""
        if getattr(self.vae, "latent_dim", 2) < 3:
            latent: Tensor = self.vae.encode(pictures)
            return latent
        return torch.cat([self.vae.encode(picture[None]) for picture in pictures])

    def _with_masks(self, hint: Tensor) -> Tensor:
        """The masks, at the hint's size, after its channels."""
        joined = [hint]
        for mask in self.extra_concat_orig:
            fitted = common_upscale(mask, hint.shape[-1], hint.shape[-2], self.upscale_algorithm, "center")
            fitted = fitted[: hint.shape[0]].to(hint.dtype)
            while fitted.ndim < hint.ndim:
                fitted = fitted.unsqueeze(2)
            joined.append(casting.cast_to(fitted, device=hint.device).expand(hint.shape[0], -1, *hint.shape[2:]))
        return torch.cat(joined, dim=1)
