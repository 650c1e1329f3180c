"""comfy.model_management: devices, dtypes, memory and interruption, over the process's memory manager."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from enum import Enum
from types import ModuleType
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from limner.compat.homes._services import host, memory
from limner.errors import Interrupted, LimnerError
from limner.graph import CURRENT_RUN
from limner.memory import devices, loading
from limner.memory.casting import cast_to, cast_to_device, dtype_size, module_size
from limner.memory.pinned import PinnedMemory
from limner.memory.room import reserved_bytes
from limner.weights.quant import QuantizedTensor

__all__ = ["cast_to", "cast_to_device", "dtype_size", "module_size"]

InterruptProcessingException = Interrupted
OOM_EXCEPTION = torch.OutOfMemoryError
FLOAT8_TYPES = [
    getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu") if hasattr(torch, name)
]
MIN_WEIGHT_MEMORY_RATIO = 0.4
SUPPORT_FP8_OPS = False
PRIORITIZE_FP16 = False
XFORMERS_VERSION = ""
XFORMERS_ENABLED_VAE = False
XFORMERS_IS_AVAILABLE = False
ENABLE_PYTORCH_ATTENTION = True
lowvram_available = True
directml_enabled = False
npu_available = False
mlu_available = False
ixuca_available = False
interrupt_processing = False
torch_version = torch.version.__version__
torch_version_numeric = tuple(int(part) for part in torch_version.split("+")[0].split(".")[:2])
AMD_RDNA2_AND_OLDER_ARCH = ["gfx1030", "gfx1031", "gfx1010", "gfx1011", "gfx1012", "gfx906", "gfx900", "gfx803"]


class VRAMState(Enum):
    """How much of a model is kept on the device."""

    DISABLED = 0
    NO_VRAM = 1
    LOW_VRAM = 2
    NORMAL_VRAM = 3
    HIGH_VRAM = 4
    SHARED = 5


class CPUState(Enum):
    """What networks run on."""

    GPU = 0
    CPU = 1
    MPS = 2


class LoadedModel:
    """A model as the list of loaded ones shows it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = model.load_device
        self.currently_used = True

    def model_memory(self) -> int:
        """Bytes of its weights."""
        return int(self.model.model_size())

    def model_loaded_memory(self) -> int:
        """Bytes of them on its device."""
        return int(self.model.loaded_size())

    def model_offloaded_memory(self) -> int:
        """Bytes of them elsewhere."""
        return self.model_memory() - self.model_loaded_memory()

    def model_memory_required(self, device: torch.device) -> int:
        """Bytes that loading it takes."""
        return self.model_offloaded_memory() if device == self.model.current_loaded_device() else self.model_memory()

    def model_load(self, lowvram_model_memory: float = 0, force_patch_weights: bool = False) -> Any:
        """Load it, or as much of it as there is room for; it stays while there is."""
        del lowvram_model_memory
        return self.model.patch_model(self.device, force_patch_weights=force_patch_weights)

    def should_reload_model(self, force_patch_weights: bool = False) -> bool:
        """Whether it must be loaded anew to have other patches: only what differs is made anew, when it is used."""
        del force_patch_weights
        return False

    def model_unload(self, memory_to_free: float | None = None, unpatch_weights: bool = True) -> bool:
        """Take it off its device, or so many bytes of it where it has more; whether nothing is left there."""
        if memory_to_free is not None and memory_to_free < self.model_loaded_memory():
            freed = self.model.partially_unload(self.model.offload_device, int(memory_to_free))
            if freed >= memory_to_free:
                return False
        self.model.detach(unpatch_weights)
        return True

    def model_use_more_vram(self, extra_memory: float, force_patch_weights: bool = False) -> int:
        """Load more of it. Returns the bytes that were loaded."""
        return int(self.model.partially_load(self.device, int(extra_memory), force_patch_weights))

    def is_dead(self) -> bool:
        """Whether its weights outlive it."""
        return False


def __getattr__(name: str) -> Any:
    if name == "cpu_state":
        kind = get_torch_device().type
        return {"cpu": CPUState.CPU, "mps": CPUState.MPS}.get(kind, CPUState.GPU)
    if name in _LIVE:
        return _LIVE[name]()
    if name == "total_vram":
        return get_total_memory() / (1024 * 1024)
    if name == "total_ram":
        return psutil.virtual_memory().total / (1024 * 1024)
    if name == "xpu_available":
        return hasattr(torch, "xpu") and torch.xpu.is_available()
    if name == "current_loaded_models":
        return [LoadedModel(model) for model in memory().models()]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _wished_state() -> VRAMState:
    """What the flags say."""
    settings = memory().settings
    if settings.novram:
        return VRAMState.NO_VRAM
    if settings.lowvram:
        return VRAMState.LOW_VRAM
    return VRAMState.HIGH_VRAM if settings.highvram or settings.gpu_only else VRAMState.NORMAL_VRAM


def _state() -> VRAMState:
    """What the flags and the device come to."""
    device = get_torch_device()
    if device.type == "cpu":
        return VRAMState.DISABLED
    return VRAMState.SHARED if memory().backend(device).is_unified(device) else _wished_state()


def _streams() -> dict[Any, list[Any]]:
    stream = get_offload_stream(get_torch_device())
    return {} if stream is None else {get_torch_device(): [stream]}


def _pinned(of: Callable[[PinnedMemory], Any], otherwise: Any) -> Any:
    found = memory().pinning()
    return otherwise if found is None else of(found)


_LIVE: dict[str, Callable[[], Any]] = {
    "vram_state": _state,
    "set_vram_to": _wished_state,
    "EXTRA_RESERVED_VRAM": lambda: reserved_bytes(memory().settings),
    "FORCE_FP32": lambda: bool(memory().settings.force_fp32),
    "DISABLE_SMART_MEMORY": lambda: bool(memory().settings.disable_smart_memory),
    "STREAMS": _streams,
    "NUM_STREAMS": lambda: len(_streams()) or 1,
    "stream_counters": lambda: dict.fromkeys(_streams(), 0),
    "PINNED_MEMORY": lambda: _pinned(lambda found: found.spans, {}),
    "TOTAL_PINNED_MEMORY": lambda: _pinned(lambda found: found.total, 0),
    "MAX_PINNED_MEMORY": lambda: _pinned(lambda found: found.budget, -1),
}
"""Names of numbers that are looked up when they are read."""


# -- devices ----------------------------------------------------------------------------------------------------------


def get_torch_device() -> torch.device:
    """Where networks run. What a pack puts in its place decides for all of them."""
    return memory().own_device


def _waiting_device(*modes: str) -> torch.device:
    """The device where one of these flags keeps what is idle there, else the CPU."""
    kept = any(getattr(memory().settings, mode) for mode in modes)
    return get_torch_device() if kept else torch.device("cpu")


def unet_offload_device() -> torch.device:
    """Where diffusion models wait."""
    return _waiting_device("gpu_only", "highvram")


def unet_inital_load_device(parameters: int, dtype: torch.dtype) -> torch.device:
    """Where a diffusion model is made."""
    del parameters, dtype
    return torch.device("cpu")


def text_encoder_device() -> torch.device:
    """Where text encoders run."""
    return memory().text_device


def text_encoder_offload_device() -> torch.device:
    """Where text encoders wait."""
    return _waiting_device("gpu_only")


def text_encoder_initial_device(
    load_device: torch.device, offload_device: torch.device, model_size: int = 0
) -> torch.device:
    """Where a text encoder is made."""
    del load_device, model_size
    return offload_device


def vae_device() -> torch.device:
    """Where autoencoders run."""
    return memory().vae_device


def vae_offload_device() -> torch.device:
    """Where autoencoders wait."""
    return _waiting_device("gpu_only")


def intermediate_device() -> torch.device:
    """Where what nodes hand each other is kept."""
    return torch.device("cpu")


def intermediate_dtype() -> torch.dtype:
    """In which dtype pictures are handed on."""
    return torch.float32


def get_autocast_device(dev: Any) -> str:
    """The device's kind, for torch.autocast."""
    return str(getattr(dev, "type", "cuda"))


def get_torch_device_name(device: Any) -> str:
    """The device's name for people."""
    if getattr(device, "type", "") == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)} : {torch.cuda.get_allocator_backend()}"
    return str(getattr(device, "type", device))


def is_device_type(device: Any, type: str) -> bool:  # noqa: A002 - the published name
    """Whether a device is of a kind."""
    return getattr(device, "type", None) == type


def is_device_cpu(device: Any) -> bool:
    """Whether it is the CPU."""
    return is_device_type(device, "cpu")


def is_device_mps(device: Any) -> bool:
    """Whether it is Apple's."""
    return is_device_type(device, "mps")


def is_device_xpu(device: Any) -> bool:
    """Whether it is Intel's."""
    return is_device_type(device, "xpu")


def is_device_cuda(device: Any) -> bool:
    """Whether it is NVIDIA's or AMD's."""
    return is_device_type(device, "cuda")


def is_nvidia() -> bool:
    """Whether networks run on an NVIDIA device."""
    return get_torch_device().type == "cuda" and torch.version.cuda is not None


def is_amd() -> bool:
    """Whether networks run on an AMD device."""
    return get_torch_device().type == "cuda" and torch.version.hip is not None


def amd_min_version(device: Any = None, min_rdna_version: int = 0) -> bool:
    """Whether networks run on an AMD device of this generation or later; it is not asked which."""
    del device, min_rdna_version
    return False


def is_intel_xpu() -> bool:
    """Whether networks run on an Intel device."""
    return get_torch_device().type == "xpu"


def is_ascend_npu() -> bool:
    """Whether networks run on an Ascend device: they cannot here."""
    return False


def is_mlu() -> bool:
    """Whether networks run on a Cambricon device: they cannot here."""
    return False


def is_ixuca() -> bool:
    """Whether networks run on an Iluvatar device: they cannot here."""
    return False


def is_directml_enabled() -> bool:
    """Whether networks run through DirectML: they cannot here."""
    return False


def cpu_mode() -> bool:
    """Whether networks run on the CPU."""
    return get_torch_device().type == "cpu"


def mps_mode() -> bool:
    """Whether networks run on Apple's GPU."""
    return get_torch_device().type == "mps"


# -- dtypes -----------------------------------------------------------------------------------------------------------

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def get_supported_float8_types() -> list[torch.dtype]:
    """The eight-bit floats that torch has."""
    return list(FLOAT8_TYPES)


def unet_dtype(
    device: Any = None,
    model_params: float = 0,
    supported_dtypes: Sequence[torch.dtype] = FLOATS,
    weight_dtype: torch.dtype | None = None,
) -> torch.dtype:
    """In which dtype a diffusion model's weights are kept."""
    del device, model_params, weight_dtype
    precision = memory().unet_precision(tuple(supported_dtypes))
    return precision.storage or precision.compute


def unet_manual_cast(
    weight_dtype: torch.dtype, inference_device: Any, supported_dtypes: Sequence[torch.dtype] = FLOATS
) -> torch.dtype | None:
    """The dtype to compute in where it is not that of the weights; None where it is."""
    del inference_device
    compute = memory().unet_precision(tuple(supported_dtypes)).compute
    return None if compute == weight_dtype else compute


def text_encoder_dtype(device: Any = None) -> torch.dtype:
    """In which dtype a text encoder's weights are kept."""
    del device
    return memory().text_precision().storage or torch.float16


def vae_dtype(device: Any = None, allowed_dtypes: Sequence[torch.dtype] = ()) -> torch.dtype:
    """In which dtype autoencoders compute."""
    del device
    found = memory().vae_precision().compute
    return found if not allowed_dtypes or found in allowed_dtypes else torch.float32


def supports_dtype(device: Any, dtype: torch.dtype) -> bool:
    """Whether a device computes in a dtype."""
    return dtype == torch.float32 or (not is_device_cpu(device) and dtype in (torch.float16, torch.bfloat16))


def supports_cast(device: Any, dtype: torch.dtype) -> bool:
    """Whether a device converts from and to a dtype."""
    return dtype in FLOATS or (not is_device_mps(device) and dtype in FLOAT8_TYPES)


def pick_weight_dtype(dtype: torch.dtype | None, fallback_dtype: torch.dtype, device: Any = None) -> torch.dtype:
    """The dtype, or the other one where the device cannot convert it."""
    dtype = dtype or fallback_dtype
    if dtype.itemsize > fallback_dtype.itemsize or not supports_cast(device, dtype):
        return fallback_dtype
    return dtype


def _capabilities(device: Any) -> devices.Capabilities:
    where = get_torch_device() if device is None else torch.device(device)
    return memory().backend(where).capabilities(where)


def should_use_fp16(
    device: Any = None, model_params: float = 0, prioritize_performance: bool = True, manual_cast: bool = False
) -> bool:
    """Whether float16 is worth it on a device."""
    del model_params, prioritize_performance, manual_cast
    settings = memory().settings
    return bool(settings.force_fp16 or _capabilities(device).fp16)


def should_use_bf16(
    device: Any = None, model_params: float = 0, prioritize_performance: bool = True, manual_cast: bool = False
) -> bool:
    """Whether bfloat16 is worth it on a device."""
    del model_params, prioritize_performance, manual_cast
    return _capabilities(device).bf16


def supports_fp8_compute(device: Any = None) -> bool:
    """Whether matrices are multiplied in eight bits: not yet."""
    del device
    return False


def extended_fp16_support() -> bool:
    """Whether sums of float16 products may be kept in float16."""
    return False


def force_channels_last() -> bool:
    """Whether convolutions are kept with their channels last."""
    return bool(memory().settings.force_channels_last)


def force_upcast_attention_dtype() -> dict[torch.dtype, torch.dtype] | None:
    """Dtypes that attention must compute in, by the dtype of its input: none are forced."""
    return None


def xformers_enabled() -> bool:
    """Whether attention is xformers': it is torch's."""
    return False


def xformers_enabled_vae() -> bool:
    """The same for autoencoders."""
    return False


def pytorch_attention_enabled() -> bool:
    """Whether attention is torch's."""
    return True


def pytorch_attention_enabled_vae() -> bool:
    """The same for autoencoders."""
    return True


def pytorch_attention_flash_attention() -> bool:
    """Whether torch's attention needs no memory that grows with the square of the length."""
    return True


def sage_attention_enabled() -> bool:
    """Whether attention is SageAttention's: it is torch's."""
    return False


def flash_attention_enabled() -> bool:
    """Whether attention is FlashAttention's own: it is torch's."""
    return False


# -- memory -----------------------------------------------------------------------------------------------------------


def get_total_memory(dev: Any = None, torch_total_too: bool = False) -> Any:
    """Bytes of memory that a device has; with torch_total_too a pair with what torch may take."""
    device = dev or get_torch_device()
    total = memory().backend(device).total(device)
    return (total, total) if torch_total_too else total


def get_free_memory(dev: Any = None, torch_free_too: bool = False) -> Any:
    """Bytes that can still be allocated on a device."""
    return loading.get_free_memory(dev or get_torch_device(), torch_free_too)


def extra_reserved_memory() -> int:
    """Bytes that are left to others."""
    return reserved_bytes(memory().settings)


def minimum_inference_memory() -> int:
    """Bytes that are kept for computing."""
    return int(0.8 * 1024**3) + extra_reserved_memory()


def maximum_vram_for_weights(device: Any = None) -> float:
    """Bytes that weights may take."""
    return float(get_total_memory(device)) * 0.88 - minimum_inference_memory()


def free_memory(memory_required: float, device: Any = None, keep_loaded: Iterable[Any] = ()) -> list[Any]:
    """Unload idle models, partly where that is enough, until so many bytes are free. Returns those that are gone."""
    before = memory().models()
    with ExitStack() as kept:
        for model in keep_loaded:
            kept.enter_context(getattr(model, "model", model).loaded())
        memory().free(int(memory_required), device)
    return [LoadedModel(model) for model in before if not memory().holds(model.source)]


def load_model_gpu(model: Any) -> None:
    """Load one model; it stays while there is room."""
    loading.load_models_gpu([model])


def loaded_models(only_currently_used: bool = False) -> list[Any]:
    """The models that are loaded."""
    del only_currently_used
    return memory().models()


def use_more_memory(extra_memory: float, loaded_models: Sequence[Any], device: Any) -> None:
    """Load so many bytes more of partly loaded models on a device, one model after the other."""
    for one in loaded_models:
        if one.device == device and extra_memory > 0:
            extra_memory -= one.model_use_more_vram(extra_memory)


def offloaded_memory(loaded_models: Sequence[LoadedModel], device: Any) -> int:
    """Bytes of loaded models that are not on the device."""
    return sum(one.model_offloaded_memory() for one in loaded_models if one.device == device)


def unload_all_models() -> None:
    """Take every model that is not in use out of memory."""
    memory().unload_all()


def unload_model_clones(model: Any, unload_weights_only: bool = True, force_unload: bool = True) -> bool:
    """Take a model's weights out of memory, whoever shares them."""
    del unload_weights_only, force_unload
    model.detach()
    return True


def cleanup_models() -> None:
    """Forget models that nothing refers to: weights go with the last model of them."""
    memory().forget_dead()


def cleanup_models_gc() -> None:
    """The same."""
    memory().forget_dead()


def soft_empty_cache(force: bool = False) -> None:
    """Give the memory that torch holds unused back to the device."""
    loading.soft_empty_cache(force)


def raise_non_oom(error: BaseException) -> None:
    """Raise an error again unless it says that memory ran out."""
    if not isinstance(error, OOM_EXCEPTION):
        raise error


def in_training() -> bool:
    """Whether gradients are being computed: nothing is trained here."""
    return False


def device_supports_non_blocking(device: Any) -> bool:
    """Whether copies to a device may go on in the background."""
    return is_device_cuda(device)


def device_should_use_non_blocking(device: Any) -> bool:
    """Whether they should: where it is forced. Weights go on a stream of their own either way."""
    return device_supports_non_blocking(device) and bool(memory().settings.force_non_blocking)


def get_offload_stream(device: Any) -> Any:
    """The stream that weights are copied on, torch's; None where they are copied in the order of computation."""
    return getattr(memory().copy_stream(torch.device(device)), "native", None)


def current_stream(device: Any) -> Any:
    """The stream that is computed on, torch's; None where a device has none."""
    device = None if device is None else torch.device(device)
    if device is None or memory().copy_stream(device) is None:
        return None
    return getattr(memory().backend(device).current(device), "native", None)


def sync_stream(device: Any, stream: Any) -> None:
    """Let what is computed from here on begin after what a stream of copies has been given to do."""
    computing = None if stream is None else current_stream(device)
    if computing is not None:
        computing.wait_stream(stream)


def pin_memory(tensor: Tensor) -> bool:
    """Lock the memory of a parameter, of a quantized one that of its parts. Whether that was done."""
    found = memory().pinning()
    if found is None:
        return False
    if isinstance(tensor, QuantizedTensor):
        return found.pin_inner(list(tensor.inner_tensors().values()))
    return found.pin(tensor)


def unpin_memory(tensor: Tensor) -> bool:
    """Unlock it, where it was locked here. Whether that was done."""
    found = memory().pinning()
    if found is None:
        return False
    if isinstance(tensor, QuantizedTensor):
        return found.unpin_inner(list(tensor.inner_tensors().values()))
    return found.unpin(tensor)


def offload(module: nn.Module) -> nn.Module:
    """A network of a pack back to where networks wait."""
    return memory().move(module, torch.device("cpu"))


# -- interruption -----------------------------------------------------------------------------------------------------


def interrupt_current_processing(value: bool = True) -> None:
    """Interrupt the running prompt. Raises LimnerError where there is no engine."""
    if not value:
        return
    stop = getattr(getattr(host(), "engine", None), "interrupt", None)
    if stop is None:
        raise LimnerError("Nothing can be interrupted.", why="No engine runs in this process.")
    stop()


def processing_interrupted() -> bool:
    """Whether the running prompt was interrupted."""
    try:
        throw_exception_if_processing_interrupted()
    except Interrupted:
        return True
    return False


def throw_exception_if_processing_interrupted() -> None:
    """Raise Interrupted when the running prompt was interrupted."""
    run = CURRENT_RUN.get()
    if run is not None:
        run.check()


class _Home(ModuleType):
    """This module: a device that a pack chooses is where networks run, and what it reserves is left to others."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "EXTRA_RESERVED_VRAM":
            loading.RESERVED[name] = int(value)
        elif name == "get_torch_device" and value is not _OWN_DEVICE:
            loading.CHOOSERS[name] = value
        else:
            loading.CHOOSERS.pop(name, None)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        loading.RESERVED.pop(name, None)
        super().__delattr__(name)


_OWN_DEVICE = get_torch_device
sys.modules[__name__].__class__ = _Home
