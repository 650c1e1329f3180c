"""MODEL: a diffusion model as it crosses node boundaries.

Weights, patches and options; nothing is in memory until `with model.loaded():`. A clone shares the weights and copies
the rest. The names of the public methods are those that node packs call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models.concat import concat_cond
from limner.models.family import Family
from limner.models.options import Hook, ModelOptions, copied
from limner.sampling.latent import LatentFormat
from limner.sampling.model_sampling import ModelSampling
from limner.weights import NetworkSource, Patches, make_patches
from limner.weights.adapters import Adapter

MIB = 1024 * 1024


class Model:
    """A diffusion model: `apply_model` predicts the clean latent; everything else is about what changes that.

    model_options: hooks, by the names that packs know. patches: weight changes, immutable.
    object_patches: things put in the place of `model_sampling` or of modules of the network.
    """

    def __init__(
        self, family: Family, config: Any, source: NetworkSource, sampling: ModelSampling, memory: MemoryManager
    ) -> None:
        self.family = family
        self.config = config
        self.source = source
        self.memory = memory
        self.model_options: ModelOptions = {"transformer_options": {}}
        self.object_patches: dict[str, Any] = {}
        self.attachments: dict[str, Any] = {}
        self._sampling = sampling
        self._compute_dtype: torch.dtype | None = None
        self._network: nn.Module | None = None

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def options(self) -> dict[str, Any]:
        """The hooks: `model_options` itself, as sampling reads it."""
        return cast(dict[str, Any], self.model_options)

    @property
    def sampling(self) -> ModelSampling:
        """Noise levels and prediction kind, or what was put in their place."""
        found: ModelSampling = self.object_patches.get("model_sampling", self._sampling)
        return found

    @property
    def latent_format(self) -> LatentFormat:
        """How latents of the autoencoder are scaled for it."""
        found: LatentFormat = self.object_patches.get("latent_format", self.family.latent)
        return found

    @property
    def patches(self) -> Patches:
        """The changes of its weights."""
        return self.source.patches

    @property
    def load_device(self) -> torch.device:
        """Where it computes."""
        return self.memory.device

    @property
    def size(self) -> int:
        """Bytes of its weights when loaded."""
        return self.source.nbytes(self.memory.unet_precision(self.family.dtypes).storage)

    def model_size(self) -> int:
        """Bytes of its weights when loaded."""
        return self.size

    def model_dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._compute_dtype or self.memory.unet_precision(self.family.dtypes).compute

    def memory_required(self, shape: tuple[int, ...]) -> int:
        """Bytes that one pass over a latent of this shape (batch, channels, …) needs beside the weights."""
        area = shape[0] * prod(shape[2:])
        return int(area * self.model_dtype().itemsize * 0.01 * self.family.memory_factor * MIB)

    def free_memory(self) -> int:
        """Bytes free on its device."""
        return self.memory.available()

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        """Its weights without patches, under the names that patches use; views of the file."""
        names = ((self.source.prefix + name, entry) for name, entry in self.source.tensors.items())
        return {name: entry.read() for name, entry in names if name.startswith(filter_prefix or "")}

    # -- copies and changes ---------------------------------------------------------------------------------------

    def clone(self) -> Model:
        """A model that can be changed without changing this one; the weights are shared."""
        other = Model(self.family, self.config, self.source, self._sampling, self.memory)
        other.model_options = copied(self.model_options)
        other.object_patches = dict(self.object_patches)
        other.attachments = dict(self.attachments)
        other._compute_dtype = self._compute_dtype
        return other

    def is_clone(self, other: object) -> bool:
        """Whether both are made of the same weights, whatever their patches."""
        return isinstance(other, Model) and other.source.tensors is self.source.tensors

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Change weights: W · strength_model + strength_patch · ΔW. Returns the targets that exist here.

        patches: weight name (`diffusion_model.…weight`), or (name, (axis, start, length)[, function]) → adapter.
        """
        keys = {self.source.prefix + name for name in self.source.tensors}
        added, used = make_patches(patches, strength_patch, strength_model, keys)
        self.source = self.source.with_patches(self.source.patches + added)
        return used

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, Adapter]:
        """Its patched weights as patches for another model: `other.add_patches(these, ratio, 1 - ratio)` merges."""
        own = self.source.as_patches()
        return {key: patch for key, patch in own.items() if key.startswith(filter_prefix or "")}

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Put `obj` in the place of `model_sampling`, `latent_format` or a module `diffusion_model.…`."""
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        """What is at that place: the patch if there is one, else the model's own. Raises BadInput for no such place."""
        if name in self.object_patches:
            return self.object_patches[name]
        own = {"model_sampling": self._sampling, "latent_format": self.family.latent, "model_config": self.family}
        if name in own:
            return own[name]
        if name.startswith("diffusion_model"):
            with self.loaded() as network:
                return network.get_submodule(name.removeprefix("diffusion_model").removeprefix("."))
        raise BadInput(f"A model has no {name!r}.", why=f"It has {', '.join(own)} and diffusion_model.….")

    def set_model_compute_dtype(self, dtype: torch.dtype) -> None:
        """Compute in this dtype, whatever the weights are kept in."""
        self._compute_dtype = dtype

    # -- hooks ----------------------------------------------------------------------------------------------------

    def set_model_sampler_cfg_function(self, function: Hook, disable_cfg1_optimization: bool = False) -> None:
        """Replace the guidance formula: args dict → residual; the older form takes (cond, uncond, scale)."""
        if len(inspect.signature(function).parameters) == 3:
            self.model_options["sampler_cfg_function"] = lambda args: function(
                args["cond"], args["uncond"], args["cond_scale"]
            )
        else:
            self.model_options["sampler_cfg_function"] = function
        self._keep_uncond(disable_cfg1_optimization)

    def set_model_sampler_post_cfg_function(self, function: Hook, disable_cfg1_optimization: bool = False) -> None:
        """Add a function of the guided prediction: args dict → tensor."""
        self.model_options.setdefault("sampler_post_cfg_function", []).append(function)
        self._keep_uncond(disable_cfg1_optimization)

    def set_model_sampler_pre_cfg_function(self, function: Hook, disable_cfg1_optimization: bool = False) -> None:
        """Add a function of the predictions before guidance: args dict → list."""
        self.model_options.setdefault("sampler_pre_cfg_function", []).append(function)
        self._keep_uncond(disable_cfg1_optimization)

    def _keep_uncond(self, wanted: bool) -> None:
        if wanted:
            self.model_options["disable_cfg1_optimization"] = True

    def set_model_sampler_calc_cond_batch_function(self, function: Hook) -> None:
        """Replace the evaluation of all conditions: args dict → list of predictions."""
        self.model_options["sampler_calc_cond_batch_function"] = function

    def set_model_unet_function_wrapper(self, function: Hook) -> None:
        """Wrap each call of the network: (apply_model, args dict) → tensor."""
        self.model_options["model_function_wrapper"] = function

    def set_model_denoise_mask_function(self, function: Hook) -> None:
        """Change the inpaint mask at each step: (sigma, mask, extra_options) → mask."""
        self.model_options["denoise_mask_function"] = function

    def set_model_patch(self, patch: Hook, name: str) -> None:
        """Add a hook at a named point of the network."""
        self.model_options["transformer_options"].setdefault("patches", {}).setdefault(name, []).append(patch)

    def set_model_patch_replace(
        self, patch: Hook, name: str, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Replace an attention or block at a place of the network."""
        place = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
        self.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault(name, {})[place] = patch

    def set_model_attn1_patch(self, patch: Hook) -> None:
        """Before self-attention: (q, k, v, extra_options) → q, k, v."""
        self.set_model_patch(patch, "attn1_patch")

    def set_model_attn2_patch(self, patch: Hook) -> None:
        """Before cross-attention."""
        self.set_model_patch(patch, "attn2_patch")

    def set_model_attn1_replace(
        self, patch: Hook, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """In place of self-attention."""
        self.set_model_patch_replace(patch, "attn1", block_name, number, transformer_index)

    def set_model_attn2_replace(
        self, patch: Hook, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """In place of cross-attention."""
        self.set_model_patch_replace(patch, "attn2", block_name, number, transformer_index)

    def set_model_attn1_output_patch(self, patch: Hook) -> None:
        """After self-attention: (n, extra_options) → n."""
        self.set_model_patch(patch, "attn1_output_patch")

    def set_model_attn2_output_patch(self, patch: Hook) -> None:
        """After cross-attention."""
        self.set_model_patch(patch, "attn2_output_patch")

    def set_model_input_block_patch(self, patch: Hook) -> None:
        """After each block on the way down: (h, transformer_options) → h."""
        self.set_model_patch(patch, "input_block_patch")

    def set_model_input_block_patch_after_skip(self, patch: Hook) -> None:
        """The same, after the skip was stored."""
        self.set_model_patch(patch, "input_block_patch_after_skip")

    def set_model_output_block_patch(self, patch: Hook) -> None:
        """Before each block on the way up: (h, hsp, transformer_options) → h, hsp."""
        self.set_model_patch(patch, "output_block_patch")

    def set_model_emb_patch(self, patch: Hook) -> None:
        """On the time embedding: (emb, model_channels, transformer_options) → emb."""
        self.set_model_patch(patch, "emb_patch")

    def set_model_forward_timestep_embed_patch(self, patch: Hook) -> None:
        """A (class, handler) pair for layers of that class."""
        self.set_model_patch(patch, "forward_timestep_embed_patch")

    def set_model_double_block_patch(self, patch: Hook) -> None:
        """After each two-stream block."""
        self.set_model_patch(patch, "double_block")

    def set_model_post_input_patch(self, patch: Hook) -> None:
        """After the input projections."""
        self.set_model_patch(patch, "post_input")

    def set_model_rope_options(
        self, scale_x: float, shift_x: float, scale_y: float, shift_y: float, scale_t: float, shift_t: float, **_: Any
    ) -> None:
        """Scale and shift rotary positions."""
        self.model_options["transformer_options"]["rope_options"] = {
            "scale_x": scale_x, "shift_x": shift_x, "scale_y": scale_y, "shift_y": shift_y,
            "scale_t": scale_t, "shift_t": shift_t,
        }  # fmt: skip

    def set_attachments(self, key: str, attachment: Any) -> None:
        """Keep anything with the model; clones share it."""
        self.attachments[key] = attachment

    def get_attachment(self, key: str) -> Any:
        """What was attached under this key, or None."""
        return self.attachments.get(key)

    def remove_attachments(self, key: str) -> None:
        """Forget an attachment."""
        self.attachments.pop(key, None)

    # -- computing ------------------------------------------------------------------------------------------------

    @contextmanager
    def loaded(self, working: int = 0) -> Iterator[nn.Module]:
        """The network, on its device and patched, for as long as the block lasts. working: bytes needed besides."""
        if self._network is not None:
            yield self._network
            return
        precision = self.memory.unet_precision(self.family.dtypes)
        with self.memory.loaded(self.source, precision.storage, working=working) as network:
            self._network = network
            restore = self._put_objects(network)
            try:
                yield network
            finally:
                restore()
                self._network = None

    def _put_objects(self, network: nn.Module) -> Callable[[], None]:
        """Put patched modules into the network; the result takes them out again."""
        before: list[tuple[nn.Module, str, Any]] = []
        for name, obj in self.object_patches.items():
            if name.startswith("diffusion_model."):
                owner, _, leaf = name.removeprefix("diffusion_model.").rpartition(".")
                module = network.get_submodule(owner)
                before.append((module, leaf, getattr(module, leaf)))
                setattr(module, leaf, obj)

        def restore() -> None:
            for module, leaf, old in reversed(before):
                setattr(module, leaf, old)

        return restore

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on the device where this model computes."""
        return self.memory.place(tensor)

    def extra_conds(self, **conditioning: Any) -> dict[str, Tensor]:
        """What the network is given beside the latent, from one condition's entries.

        conditioning: the entries (`cross_attn`, `concat_latent_image`, `concat_mask` …) and the run's `noise` (shape
        and device), `latent_image` and `denoise_mask`. Returns tensors by argument name of `apply_model`.
        """
        found: dict[str, Tensor] = {}
        if conditioning.get("cross_attn") is not None:
            found["c_crossattn"] = conditioning["cross_attn"]
        kinds = self.family.concat(self.config)
        if kinds:
            found["c_concat"] = concat_cond(kinds, self.latent_format, **conditioning)
        return found

    def apply_model(
        self,
        x: Tensor,
        sigma: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> Tensor:
        """The clean latent predicted from x at noise level sigma; float32.

        x: (B, C, …) in model space. sigma: (B,). c_concat: (B, C', …) joined to the input. c_crossattn: (B, L, D).
        """
        sampling, dtype = self.sampling, self.model_dtype()
        shown = sampling.calculate_input(sigma, x)
        if c_concat is not None:
            shown = torch.cat((shown, c_concat.to(shown.dtype)), dim=1)
        shown = shown.to(dtype)
        if shown.ndim == 4 and self.memory.channels_last(self.load_device):
            shown = shown.contiguous(memory_format=torch.channels_last)
        context = None if c_crossattn is None else c_crossattn.to(dtype)
        others = {name: _in_dtype(value, dtype) for name, value in extra.items()}
        with self.loaded() as network:
            output: Tensor = network(
                shown,
                sampling.timestep(sigma).float(),
                context=context,
                control=control,
                transformer_options=transformer_options or {},
                **others,
            )
        return sampling.calculate_denoised(sigma, output.float(), x)


def _in_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
