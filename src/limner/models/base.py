"""BaseModel: what a model is apart from what was hung on it, as hooks and packs see it (`model.model`).

The network is `diffusion_model`; noise levels, latent format and configuration stand beside it. What a pack assigns to
it stays on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from limner.errors import BadInput
from limner.models.concat import concat_cond
from limner.models.legacy_config import LegacyConfig
from limner.sampling.latent import LatentFormat
from limner.sampling.model_sampling import ModelSampling, as_sampling
from limner.sampling.wrappers import WrapperExecutor, WrappersMP, get_all_wrappers

if TYPE_CHECKING:
    from limner.models.family import Family
    from limner.models.model import Model

MIB = 1024 * 1024
TEXT_TOKENS = 256
"""Of a prompt whose length is not said."""
CPU_HALF = 1.65
"""On the CPU root-mean-square norms in sixteen bits are made of operations whose results are in float32."""


class ModelType(Enum):
    """What a network predicts, over which noise levels."""

    EPS = 1
    V_PREDICTION = 2
    V_PREDICTION_EDM = 3
    STABLE_CASCADE = 4
    EDM = 5
    FLOW = 6
    V_PREDICTION_CONTINUOUS = 7
    FLUX = 8
    IMG_TO_IMG = 9
    FLOW_COSMOS = 10


_TYPES = {
    ("DiscreteTime", "EPS"): ModelType.EPS,
    ("DiscreteTime", "V"): ModelType.V_PREDICTION,
    ("EDMTime", "V"): ModelType.V_PREDICTION_EDM,
    ("CascadeTime", "EPS"): ModelType.STABLE_CASCADE,
    ("EDMTime", "EDM"): ModelType.EDM,
    ("FlowTime", "Flow"): ModelType.FLOW,
    ("ContinuousV", "V"): ModelType.V_PREDICTION_CONTINUOUS,
    ("FluxTime", "Flow"): ModelType.FLUX,
    ("DiscreteTime", "IMG2IMG"): ModelType.IMG_TO_IMG,
    ("CosmosTime", "CosmosRF"): ModelType.FLOW_COSMOS,
}


class BaseModel:
    """One model's network and its facts. It is a sampling model: everything is computed through it.

    current_patcher: the `Model` it belongs to.
    """

    def __init__(self, patcher: Model) -> None:
        self.current_patcher = patcher
        self.device = patcher.load_device
        self.manual_cast_dtype: torch.dtype | None = None
        self.memory_usage_factor = patcher.family.memory_factor * patcher.family.memory_scale(patcher.config)
        self.memory_usage_factor_conds: tuple[str, ...] = ("ref_latents",)
        self.adm_channels = int(getattr(patcher.config, "adm_in_channels", None) or 0)
        self.inpaint_model = "mask" in patcher.family.concat(patcher.config)

    def own(self) -> dict[str, Any]:
        """What was assigned to it from outside, for a clone."""
        fresh = BaseModel(self.current_patcher).__dict__
        return {name: value for name, value in self.__dict__.items() if name not in fresh or fresh[name] != value}

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def config(self) -> Any:
        """The network's dimensions."""
        return self.current_patcher.config

    @property
    def family(self) -> Family:
        """Its model family."""
        return self.current_patcher.family

    @property
    def model_loaded_weight_memory(self) -> int:
        """Bytes of its weights that are on the device."""
        return self.current_patcher.loaded_size()

    @property
    def lowvram_patch_counter(self) -> int:
        """How many weights are patched each time they are used."""
        return self.current_patcher.lowvram_patch_counter()

    @property
    def concat_keys(self) -> tuple[str, ...]:
        """What is joined to the latent; a LoRA may make the network take more."""
        patcher = self.current_patcher
        own: tuple[str, ...] | None = self.__dict__.get("_concat_keys")
        return patcher.family.concat(patcher.patched_config) if own is None else own

    @concat_keys.setter
    def concat_keys(self, value: Any) -> None:
        self.__dict__["_concat_keys"] = tuple(value)

    @property
    def diffusion_model(self) -> nn.Module:
        """The network; loaded when it is asked for outside of sampling."""
        return self.current_patcher.network()

    @property
    def model_config(self) -> LegacyConfig:
        """Its configuration under the names of the reference's arguments."""
        return LegacyConfig.of(self.current_patcher)

    @property
    def model_sampling(self) -> Any:
        """Noise levels and prediction kind, or what was put in their place."""
        return self.__dict__.get("_model_sampling", self.current_patcher.get_model_object("model_sampling"))

    @model_sampling.setter
    def model_sampling(self, value: Any) -> None:
        self.__dict__["_model_sampling"] = value

    @property
    def latent_format(self) -> LatentFormat:
        """How latents of the autoencoder are scaled for it."""
        return cast(LatentFormat, self.__dict__.get("_latent_format", self.current_patcher.latent_format))

    @latent_format.setter
    def latent_format(self, value: Any) -> None:
        self.__dict__["_latent_format"] = value

    @property
    def model_type(self) -> ModelType:
        """What the network predicts."""
        sampling = self.sampling
        names = (type(sampling.time).__name__, type(sampling.prediction).__name__)
        return _TYPES.get(names, ModelType.EPS)

    def get_dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.current_patcher.model_dtype()

    def is_adm(self) -> bool:
        """Whether it takes a vector beside time and text."""
        return self.adm_channels > 0

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The network's tensors, under the names that patches use."""
        return {f"diffusion_model.{name}": value for name, value in self.diffusion_model.state_dict().items()}

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The network's modules, under the names that patches use."""
        for name, module in self.diffusion_model.named_modules():
            yield f"diffusion_model.{name}".rstrip("."), module

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The network's parameters, under the names that patches use."""
        for name, parameter in self.diffusion_model.named_parameters():
            yield f"diffusion_model.{name}", parameter

    def parameters(self) -> Iterator[nn.Parameter]:
        """The network's parameters."""
        return self.diffusion_model.parameters()

    def to(self, *_: Any, **__: Any) -> BaseModel:
        """Itself: where a network is and in which dtype is decided when it is loaded."""
        return self

    def eval(self) -> BaseModel:
        """Itself: nothing is trained here."""
        return self

    # -- as sampling sees it --------------------------------------------------------------------------------------

    @property
    def options(self) -> dict[str, Any]:
        """The hooks."""
        return self.current_patcher.options

    @property
    def sampling(self) -> ModelSampling:
        """Noise levels and prediction kind, whoever made them."""
        return as_sampling(self.model_sampling)

    def free_memory(self) -> int:
        """Bytes free on its device."""
        return self.current_patcher.free_memory()

    def loaded(self, working: int = 0) -> AbstractContextManager[nn.Module]:
        """The network, on its device, for as long as the block lasts."""
        return self.current_patcher.loaded(working)

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on the device where this model computes."""
        return self.current_patcher.place(tensor)

    def memory_required(self, input_shape: Any, cond_shapes: Mapping[str, Any] | None = None) -> int:
        """Bytes that one pass over a latent of this shape (batch, channels, …) needs beside the weights.

        A hundredth of a MiB · the family's factor · bytes of a number, for each latent cell. What conditions bring
        counts as cells: a token of text as many as the family says, a cell of a picture to go by as one.

        cond_shapes: shapes of what the network is given, by argument name, a list of one or several (batch, …) each;
        `extra_conds_shapes` says them. Text that is not said has 256 tokens.
        """
        said, family = cond_shapes or {}, self.family
        cells = float(input_shape[0] * prod(input_shape[2:]))
        for name in self.memory_usage_factor_conds:
            cells += sum(shape[0] * prod(shape[2:]) for shape in said.get(name) or ())
        texts = said.get("c_crossattn") or [(input_shape[0], TEXT_TOKENS)]
        tokens = sum(shape[0] * shape[1] for shape in texts)
        factor = 0.01 * self.memory_usage_factor
        needed = max(factor * cells, family.memory_least) + factor * family.memory_text * tokens
        size = self.get_dtype().itemsize
        slow = CPU_HALF if self.device.type == "cpu" and size == 2 else 1.0
        return int(needed * size * slow * MIB) + self.current_patcher.cast_bytes()

    def process_latent_in(self, latent: Tensor) -> Tensor:
        """Autoencoder space to model space. Raises BadInput for a latent of another autoencoder."""
        if isinstance(self.latent_format, LatentFormat):  # packs bring their own
            self.latent_format.refuse_other(latent)
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        """Model space to autoencoder space."""
        return self.latent_format.process_out(latent)

    def scale_latent_inpaint(self, sigma: Any, noise: Tensor, latent_image: Tensor, **_: Any) -> Tensor:
        """What is shown of the picture outside an inpaint mask at a noise level."""
        if getattr(self.latent_format, "clean_inpaint", False):
            return latent_image
        scaled: Tensor = self.model_sampling.noise_scaling(sigma, noise, latent_image)
        return scaled

    def process_timestep(self, timestep: Tensor, **_: Any) -> Tensor:
        """The time that the network is told."""
        return timestep

    def encode_adm(self, **conditioning: Any) -> Tensor | None:
        """The vector beside time and text, for families that take one; from a condition's entries."""
        return self.family.vector(self, conditioning)

    def concat_cond(self, **conditioning: Any) -> Tensor | None:
        """What is joined to the latent's channels; None where nothing is."""
        if not self.concat_keys:
            return None
        return concat_cond(self.concat_keys, self.latent_format, **conditioning)

    def extra_conds(self, **conditioning: Any) -> dict[str, Any]:
        """What the network is given beside the latent, from one condition's entries.

        conditioning: the entries (`cross_attn`, `concat_latent_image`, `concat_mask` …) and the run's `noise` (shape
        and device), `latent_image` and `denoise_mask`. Returns tensors by argument name of `apply_model`.
        """
        found = self.family.conditions(self, conditioning)
        self._refuse_other_text(found.get("c_crossattn"))
        return found

    def _refuse_other_text(self, text: Any) -> None:
        """Raise BadInput where the text is of another width than the network takes: another family's."""
        tokens = getattr(text, "cond", text)
        wanted = self.family.context_width(self.config)
        if wanted is None or not isinstance(tokens, Tensor) or tokens.shape[-1] == wanted:
            return
        words = " or ".join(self.family.text.types) if self.family.text is not None else ""
        raise BadInput(
            f"The text conditioning is {tokens.shape[-1]} wide, {self.family.title} takes {wanted}.",
            why="It was encoded by the text encoder of another model family.",
            do="Encode the prompt with the CLIP of this model's checkpoint"
            + (f", or with Load CLIP and the type {words}." if words else "."),
        )

    def extra_conds_shapes(self, **conditioning: Any) -> dict[str, Any]:
        """Shapes of what `extra_conds` makes for one picture, where they count for memory: text, pictures to go by."""
        found: dict[str, Any] = {}
        text = conditioning.get("cross_attn")
        if isinstance(text, Tensor) and text.ndim == 3:
            found["c_crossattn"] = [(1, *text.shape[1:])]
        references = [one for one in conditioning.get("reference_latents") or () if isinstance(one, Tensor)]
        if references:
            found["ref_latents"] = [(1, *one.shape[1:]) for one in references]
        return found

    # -- computing ------------------------------------------------------------------------------------------------

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The clean latent predicted from x at noise level t; float32.

        x: (B, C, …) in model space. t: (B,) sigmas. c_concat: (B, C', …) joined to the input. c_crossattn: (B, L, D).
        """
        options = dict(transformer_options or {})
        wrappers = get_all_wrappers(WrappersMP.APPLY_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._apply_model, self, wrappers)
        found: Tensor = executor.execute(x, t, c_concat, c_crossattn, control, options, **kwargs)
        return found

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        patcher = self.current_patcher
        sampling, dtype = self.model_sampling, self.get_dtype()
        shown = sampling.calculate_input(t, x)
        if c_concat is not None:
            shown = torch.cat((shown, c_concat.to(shown.dtype)), dim=1)
        shown = shown.to(dtype)
        if shown.ndim == 4 and patcher.memory.channels_last(patcher.load_device):
            shown = shown.contiguous(memory_format=torch.channels_last)
        context = None if c_crossattn is None else c_crossattn.to(dtype)
        others = {name: convert_tensor(value, dtype) for name, value in kwargs.items()}
        time = self.process_timestep(sampling.timestep(t).float(), x=x, **kwargs)
        with patcher.loaded() as network:
            output: Tensor = network(
                shown,
                time,
                context=context,
                control=control,
                transformer_options=transformer_options or {},
                **others,
            )
        denoised: Tensor = sampling.calculate_denoised(t, output.float(), x)
        return denoised


def convert_tensor(extra: Any, dtype: torch.dtype, device: Any = None) -> Any:
    """A floating tensor, or each of a list, in a dtype; anything else as it is."""
    del device
    if isinstance(extra, list | tuple):
        return [_in_dtype(one, dtype) for one in extra]
    return _in_dtype(extra, dtype)


def _in_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
