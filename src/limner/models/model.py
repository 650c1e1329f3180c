"""MODEL: a diffusion model as it crosses node boundaries.

Weights, patches and options; nothing is in memory until `with model.loaded():`. A clone shares the weights and copies
the rest. The names of the public methods are those that node packs call.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadInput
from limner.memory import MemoryManager, Precision, devices, loading
from limner.models.base import BaseModel
from limner.models.family import Family
from limner.models.lora_files import under_known_names
from limner.models.lora_keys import diffusion_names
from limner.models.patcher import put_attribute
from limner.models.streamable import Streamable
from limner.sampling.latent import LatentFormat
from limner.sampling.model_sampling import ModelSampling, as_sampling
from limner.sampling.wrappers import CallbacksMP
from limner.weights import CheckpointHeader, NetworkSource, Patches, make_patches, read_adapters
from limner.weights.adapters import Adapter
from limner.weights.lazy import PackedTensor
from limner.weights.quant import counting_fallbacks

_log = logging.getLogger(__name__)


class Model(Streamable):
    """A diffusion model: `apply_model` predicts the clean latent; everything else is about what changes that.

    model_options: hooks, by the names that packs know. patches: weight changes, immutable. model: the network and its
    facts. object_patches: things put in the place of `model_sampling`, of other facts or of modules of the network.
    """

    def __init__(
        self, family: Family, config: Any, source: NetworkSource, sampling: ModelSampling, memory: MemoryManager
    ) -> None:
        self.family = family
        self.config = config
        self.source = source
        self.memory = memory
        self._sampling = sampling
        self._compute_dtype: torch.dtype | None = None
        self.weight_dtype: torch.dtype | None = None  # that its weights are kept in, whatever the settings say
        self._network: nn.Module | None = None
        self.too_much = math.inf  # bytes of a pass, as estimated, that ran out of memory in this run
        self._written = Patches()
        super().__init__(None, memory.device, torch.device("cpu"))
        self.model = BaseModel(self)

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def sampling(self) -> ModelSampling:
        """Noise levels and prediction kind, or what was put in their place."""
        return as_sampling(self.object_patches.get("model_sampling", self._sampling))

    @property
    def latent_format(self) -> LatentFormat:
        """How latents of the autoencoder are scaled for it."""
        found: LatentFormat = self.object_patches.get("latent_format", self.family.latent)
        return found

    @property
    def patches(self) -> Patches:
        """The changes of its weights."""
        return self.source.patches

    @patches.setter
    def patches(self, value: Patches | Mapping[str, Sequence[Any]]) -> None:
        self.source = self.source.with_patches(Patches.of(value))

    @property
    def patched_config(self) -> Any:
        """The network's dimensions with the weights that patches have made larger."""
        grown = self.patches.shapes()
        if not grown:
            return self.config
        return self.family.grown(
            self.config, {name.removeprefix(self.source.prefix): shape for name, shape in grown.items()}
        )

    @property
    def load_device(self) -> torch.device:
        """Where it computes."""
        return self.memory.device

    @load_device.setter
    def load_device(self, device: torch.device) -> None:
        self._load_device = device

    @property
    def size(self) -> int:
        """Bytes of its weights when loaded."""
        return self.source.nbytes(self._precision().storage)

    @size.setter
    def size(self, value: int) -> None:
        self._size = value

    def _precision(self) -> Precision:
        found = self.memory.unet_precision(self.family.dtypes)
        return found if self.weight_dtype is None else Precision(self.weight_dtype, found.compute)

    def model_size(self) -> int:
        """Bytes of its weights when loaded."""
        return self.size

    def model_dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._compute_dtype or self._precision().compute

    def memory_required(self, input_shape: Any, cond_shapes: Mapping[str, Any] | None = None) -> int:
        """Bytes that one pass over a latent of this shape (batch, channels, …) needs beside the weights.

        cond_shapes: of what conditions bring, as `BaseModel.memory_required` takes them.
        """
        if cond_shapes is None:  # a pack's own may take the shape alone
            return int(self.model.memory_required(input_shape))
        return int(self.model.memory_required(input_shape, cond_shapes=cond_shapes))

    def cast_bytes(self) -> int:
        """Bytes of its largest weight as it is computed with, where it is kept in another dtype than that.

        What quantized weights take while they are computed with is told by their units.
        """
        compute = self.model_dtype()
        if self._precision().storage == compute:
            return 0
        plain = (entry for entry in self.source.tensors.values() if not isinstance(entry, PackedTensor))
        return max((prod(entry.shape) for entry in plain), default=0) * compute.itemsize

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
        other.__class__ = type(self)
        self.copy_changes_to(other)
        other._compute_dtype, other.weight_dtype = self._compute_dtype, self.weight_dtype
        other.patches_uuid = self.patches_uuid
        other.model.__dict__.update(self.model.own(), current_patcher=other)
        for callback in self.get_all_callbacks(CallbacksMP.ON_CLONE):
            callback(self, other)
        return other

    def unchanged(self) -> Model:
        """One of the same weights without patches, options and hooks; what was assigned to its `model` stays."""
        other = Model(self.family, self.config, self.source.with_patches(Patches()), self._sampling, self.memory)
        other._compute_dtype, other.weight_dtype = self._compute_dtype, self.weight_dtype
        other.model.__dict__.update(self.model.own(), current_patcher=other)
        return other

    def is_clone(self, other: Any) -> bool:
        """Whether both are made of the same weights, whatever their patches."""
        return isinstance(other, Model) and other.source.tensors is self.source.tensors

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Change weights: W · strength_model + strength_patch · ΔW. Returns the targets that exist here.

        patches: weight name (`diffusion_model.…weight`), or (name, (axis, start, length)[, function]) → adapter.
        """
        added, used = make_patches(patches, strength_patch, strength_model, self.weight_keys())
        self.source = self.source.with_patches(self.source.patches + added)
        self.patches_uuid = uuid.uuid4()
        return used

    def weight_keys(self) -> set[str]:
        """The names of its weights, as patches use them."""
        return {self.source.prefix + name for name in self.source.tensors}

    def lora_names(self) -> dict[str, Any]:
        """What a LoRA file may call its weights: name without suffix → patch key, or (key, part[, function])."""
        return diffusion_names(tuple(self.source.tensors), self.source.prefix, self.family.lora, self.config)

    def lora_patches(self, lora: Mapping[str, Tensor]) -> Mapping[Any, Adapter]:
        """The changes that a LoRA's tensors make to it, by weight."""
        return read_adapters(under_known_names(CheckpointHeader.of(lora)), self.lora_names()).adapters

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, Adapter]:
        """Its patched weights as patches for another model: `other.add_patches(these, ratio, 1 - ratio)` merges."""
        own = self.source.as_patches()
        return {key: patch for key, patch in own.items() if key.startswith(filter_prefix or "")}

    def get_model_object(self, name: str) -> Any:
        """The patch at that place if there is one, else the model's own. Raises NoSuchPart for no such place."""
        if name in self.object_patches:
            return self.object_patches[name]
        if name == "model_sampling":
            return self._sampling
        if name == "latent_format":
            return self.family.latent
        if name == "diffusion_model" or name.startswith("diffusion_model."):
            return _inside(self.network(), name.removeprefix("diffusion_model").removeprefix("."))
        if hasattr(self.model, name.partition(".")[0]):
            return _inside(self.model, name)
        raise NoSuchPart(
            f"A model has no {name!r}.", why="It has model_sampling, latent_format, model_config and diffusion_model.…."
        )

    def set_model_compute_dtype(self, dtype: torch.dtype) -> None:
        """Compute in this dtype, whatever the weights are kept in."""
        self._compute_dtype = dtype

    # -- computing ------------------------------------------------------------------------------------------------

    @contextmanager
    def loaded(self, working: int = 0, least: int | None = None, passes: int | None = None) -> Iterator[nn.Module]:
        """The network, on its device and patched, for as long as the block lasts.

        working: bytes wanted besides, least: that will do. passes: how often its weights are used in the block.
        """
        if self._network is not None:
            yield self._network
            return
        custom = loading.replaced_loading()
        if custom is not None and not self._asking:
            self._ask(custom, working)
        precision = self._precision()
        with ExitStack() as stack:
            stack.enter_context(counting_fallbacks())
            for other in [*self.get_nested_additional_models(), *self.model_patches_models()]:
                if hasattr(other, "loaded"):
                    stack.enter_context(other.loaded())
            network = stack.enter_context(
                self.memory.loaded(
                    self._placed(),
                    precision.storage,
                    working=working,
                    least=least,
                    passes=passes,
                    compute=self.model_dtype(),
                )
            )
            self.memory.note(self)
            self._network, self._written = network, self._placed().patches
            stack.callback(self._leave)
            self.write_patches(self.source.patches)
            stack.callback(self._put_objects(network))
            stack.callback(self.eject_model)
            self.call_back(CallbacksMP.ON_LOAD, self.load_device, 0, False, True)
            self.inject_model()
            yield network

    def network(self) -> nn.Module:
        """The network; outside of sampling it is loaded for this and stays while there is room, without its objects."""
        if self._network is not None:
            return self._network
        precision = self._precision()
        with self.memory.loaded(self._placed(), precision.storage, compute=self.model_dtype()) as network:
            self.memory.note(self)
            return network

    def _placed(self) -> NetworkSource:
        """What is loaded: the network with its patches, or without, where a pack writes them into it."""
        return self.source.with_patches(Patches()) if self.writes_itself else self.source

    _asking = False

    def _ask(self, load_models: Callable[..., Any], working: int) -> None:
        """Let a pack's own `load_models_gpu` see what is loaded; it is expected to call the one it replaced."""
        self._asking = True
        try:
            load_models([self], memory_required=working)
        finally:
            self._asking = False

    def _leave(self) -> None:
        try:
            if self._network is not None:
                self.write_patches(self._placed().patches)
        except BaseException:
            self.memory.forget(self.source)  # half patched
            raise
        finally:
            self._network = None
            self.too_much = math.inf

    def write_patches(self, patches: Patches) -> None:
        """Turn the network that is in use into one with these patches: what weight hooks do at a step."""
        if self._network is None:
            raise BadInput("Weights are only changed while the model is in use.")
        if patches.digest == self._written.digest:
            return
        if self.writes_itself:
            self._let_write(patches)
        else:
            self.memory.repatch(self._network, patches)
        self._written = patches

    def _let_write(self, patches: Patches) -> None:
        """Let a pack's class take out what it wrote, and write these."""
        if self._written:
            self.unpatch_model(self.load_device)
            self._put_back()
        own = self.source
        self.source = own.with_patches(patches)
        try:
            for key in patches:
                self.patch_weight_to_device(key, self.load_device)
        finally:
            self.source = own

    def _put_objects(self, network: nn.Module) -> Callable[[], None]:
        """Put patched objects into the network and beside it; the result takes them out again."""
        before: list[tuple[Any, str, Any]] = []
        for name, obj in self.object_patches.items():
            if name.startswith("diffusion_model."):
                place: tuple[Any, str] = (network, name.removeprefix("diffusion_model."))
            elif name in ("model_sampling", "latent_format", "diffusion_model"):
                continue
            else:
                place = (self.model, name)
            before.append((*place, put_attribute(*place, obj)))

        def restore() -> None:
            for owner, name, old in reversed(before):
                put_attribute(owner, name, old)

        return restore

    def patch_model(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        load_weights: bool = True,
        force_patch_weights: bool = False,
    ) -> Any:
        """Load and patch it now; it stays while there is room. Returns what `model` is."""
        del device_to, lowvram_model_memory, load_weights, force_patch_weights
        with self.loaded():
            return self.model

    def detach(self, unpatch_all: bool = True) -> Any:
        """Take its weights out of memory, unless they are in use."""
        self.memory.unload(self.source)
        self.call_back(CallbacksMP.ON_DETACH, unpatch_all)
        return self.model

    def ran_out(self, error: BaseException) -> bool:
        """Whether an error says that there was too little memory."""
        return devices.is_out_of_memory(error)

    def relieve(self, needed: float, failed: float) -> None:
        """Make room after a pass ran out of memory: what is idle goes, and so much of its own weights is streamed.

        needed: bytes that the next try is estimated to take. failed: that the last was; `too_much` from then on.
        """
        self.too_much = min(self.too_much, failed)
        _log.warning("Out of memory while sampling: tried once more with %d MB of room.", int(needed) >> 20)
        self.memory.relieve(self.source, int(needed), self.load_device)

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on the device where this model computes."""
        return self.memory.place(tensor)

    def extra_conds(self, **conditioning: Any) -> dict[str, Any]:
        """What the network is given beside the latent, from one condition's entries: `BaseModel.extra_conds`."""
        found: dict[str, Any] = self.model.extra_conds(**conditioning)
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
        """The clean latent predicted from x at noise level sigma; float32: `BaseModel.apply_model`."""
        found: Tensor = self.model.apply_model(x, sigma, c_concat, c_crossattn, control, transformer_options, **extra)
        return found


class NoSuchPart(BadInput, AttributeError):
    """A place that a model does not have. Packs that try names one after another expect an AttributeError."""


def _inside(obj: Any, name: str) -> Any:
    for part in name.split(".") if name else ():
        if not hasattr(obj, part):
            raise NoSuchPart(f"The network has no {name!r}.", why=f"{type(obj).__name__} has no {part!r}.")
        obj = getattr(obj, part)
    return obj
