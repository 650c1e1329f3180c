"""ModelPatcher: a network that is already in memory, with the same methods as a model from a file.

Packs make these of their own networks: control networks, vision models, adapters. Weight patches are written into the
network when it is loaded and taken out again when it is not used any more.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadInput
from limner.memory import casting, loading
from limner.models.adopted import Adoptable
from limner.models.hooking import Hooking
from limner.sampling.wrappers import CallbacksMP
from limner.weights import Patches, make_patches
from limner.weights.patches import calculate_weight


class _Making(type):
    """Packs wrap a model's `model` anew, to be rid of its patches: that gives the model without them."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        inner = args[0] if args else kwargs.get("model")
        owner = inner.__dict__.get("current_patcher") if hasattr(inner, "__dict__") else None
        if "unchanged" in cls.__dict__ and isinstance(owner, cls) and type(owner) is not cls:
            return owner.unchanged()
        return super().__call__(*args, **kwargs)


class ModelPatcher(Hooking, Adoptable, metaclass=_Making):
    """model: the network. load_device, offload_device: where it computes and where it waits. size: bytes, 0: counted.

    `limner.models.model.Model` is one whose network is loaded from a file when it is needed.
    """

    def __init__(
        self,
        model: Any,
        load_device: torch.device,
        offload_device: torch.device,
        size: int = 0,
        weight_inplace_update: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self._load_device = load_device
        self.offload_device = offload_device
        self._size = size
        self.weight_inplace_update = weight_inplace_update
        self._patches = Patches()
        self.backup: dict[str, Any] = {}
        self.patches_uuid: Any = uuid.uuid4()
        self._users = 0
        self._pins: dict[str, Tensor] = {}

    def unchanged(self) -> Any:
        """One of the same network without patches, options and hooks."""
        return type(self)(self.model, self.load_device, self.offload_device, self.size, self.weight_inplace_update)

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def load_device(self) -> torch.device:
        """Where it computes."""
        return self._load_device

    @load_device.setter
    def load_device(self, device: torch.device) -> None:
        self._load_device = device

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        if not self._size:
            self._size = casting.module_size(self.model)
        return self._size

    @size.setter
    def size(self, value: int) -> None:
        self._size = value

    @property
    def patches(self) -> Patches:
        """The changes of its weights: name → [(strength, change, strength of the weight, offset, function)]."""
        return self._patches

    @patches.setter
    def patches(self, value: Patches | Mapping[str, Sequence[Any]]) -> None:
        self._patches = Patches.of(value)

    def model_size(self) -> int:
        """Bytes of its weights."""
        return self.size

    def loaded_size(self) -> int:
        """Bytes of them on the device where it computes."""
        return self.size if self.current_loaded_device() == self.load_device else 0

    def get_ram_usage(self) -> int:
        """Bytes of them in the computer's memory."""
        return self.model_size()

    def lowvram_patch_counter(self) -> int:
        """How many weights are patched each time they are used: none."""
        return 0

    def current_loaded_device(self) -> torch.device:
        """Where it is now."""
        return casting.module_device(self.model)

    def model_dtype(self) -> torch.dtype | None:
        """What it computes in."""
        if hasattr(self.model, "get_dtype"):
            found: torch.dtype = self.model.get_dtype()
            return found
        parameter = next(self.model.parameters(), None)
        return None if parameter is None else parameter.dtype

    def memory_required(self, input_shape: Any, cond_shapes: Mapping[str, Any] | None = None) -> float:
        """Bytes that one pass needs beside the weights. cond_shapes: of what conditions bring, where that is known."""
        required = getattr(self.model, "memory_required", None)
        known = {} if cond_shapes is None else {"cond_shapes": cond_shapes}
        return float(required(input_shape=input_shape, **known)) if required is not None else 0.0

    def clone(self) -> ModelPatcher:
        """One that can be changed without changing this one; the network is shared."""
        other = ModelPatcher(self.model, self.load_device, self.offload_device, self._size, self.weight_inplace_update)
        other.__class__ = type(self)
        self.copy_changes_to(other)
        other._patches, other.patches_uuid = self._patches, self.patches_uuid
        other.backup, other.object_patches_backup = self.backup, self.object_patches_backup
        other._pins = self._pins
        for callback in self.get_all_callbacks(CallbacksMP.ON_CLONE):
            callback(self, other)
        return other

    def is_clone(self, other: Any) -> bool:
        """Whether both are of the same network, whatever their patches."""
        return getattr(other, "model", None) is self.model

    def clone_has_same_weights(self, clone: Any) -> bool:
        """Whether a clone's weights are the same when loaded."""
        return self.is_clone(clone) and clone.patches.digest == self.patches.digest

    # -- weights --------------------------------------------------------------------------------------------------

    def weight_keys(self) -> set[str]:
        """The names of its weights."""
        return set(self.model.state_dict())

    def base_patches(self) -> Patches:
        """The changes of its weights without hooks."""
        return self.patches

    def write_patches(self, patches: Patches) -> None:
        """Write these patches into the network in the place of those that are there."""
        own = self._patches
        self._patches = patches
        try:
            for key, weight in list(self.backup.items()):
                if key not in patches:
                    self._set(key, weight)
            for key in patches:
                self.patch_weight_to_device(key)
        finally:
            self._patches = own

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Change weights: W · strength_model + strength_patch · ΔW. Returns the targets that exist here."""
        added, used = make_patches(patches, strength_patch, strength_model, self.weight_keys())
        self._patches += added
        self.patches_uuid = uuid.uuid4()
        return used

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, Any]:
        """Its weights and their patches, by name."""
        found = {}
        for name, weight in self.model.state_dict().items():
            if name.startswith(filter_prefix or ""):
                original = self.backup.get(name, weight)
                found[name] = [(original, lambda tensor: tensor), *self._patches.get(name, [])]
        return found

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        """Its weights."""
        return {name: value for name, value in self.model.state_dict().items() if name.startswith(filter_prefix or "")}

    def calculate_weight(
        self, patches: Any, weight: Tensor, key: str, intermediate_dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """A weight with patches."""
        return calculate_weight(patches, weight, key, intermediate_dtype=intermediate_dtype)

    def patch_weight_to_device(self, key: str, device_to: Any = None, inplace_update: bool = False) -> None:
        """Write the patched weight into the network, the old one kept."""
        del inplace_update
        if key not in self._patches:
            return
        weight = self.model.state_dict()[key]
        self.backup.setdefault(key, weight.detach().clone())
        changed = self._patches.apply_kept(key, casting.cast_to(self.backup[key], device=device_to))
        self._set(key, changed.to(weight.dtype))

    @property
    def writes_itself(self) -> bool:
        """Whether a pack's class writes patches into weights in a way of its own."""
        return type(self).patch_weight_to_device is not ModelPatcher.patch_weight_to_device

    def _set(self, key: str, value: Any) -> None:
        """value: a tensor, or what packs keep of one: (weight, whether it was written in place)."""
        put_attribute(self.model, key, nn.Parameter(getattr(value, "weight", value), requires_grad=False))

    def _put_back(self) -> None:
        """The weights that were there before patches were written into the network."""
        for key, kept in self.backup.items():
            self._set(key, kept)
        self.backup.clear()

    # -- objects --------------------------------------------------------------------------------------------------

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Put `obj` in the place of an attribute while the network is in use."""
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        """What is at that place: the patch if there is one, else the model's own. Raises BadInput for no such place."""
        for known in (self.object_patches, self.object_patches_backup):
            if name in known:
                return known[name]
        return attribute(self.model, name)

    def set_model_compute_dtype(self, dtype: torch.dtype) -> None:
        """Compute in this dtype, whatever the weights are kept in."""
        self.add_object_patch("manual_cast_dtype", dtype)

    # -- in use ---------------------------------------------------------------------------------------------------

    @contextmanager
    def loaded(self, working: int = 0, least: int | None = None) -> Iterator[Any]:
        """The network, on its device and patched. It stays so afterwards. working, least: it is always whole."""
        del working, least
        self.patch_model(self.load_device)
        yield self.model

    def load(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
    ) -> None:
        """Bring the weights to a device, where room is made for them, and patch them."""
        self.unpin_all_weights()
        loading.move(self.model, device_to)
        for key in self._patches:
            self.patch_weight_to_device(key, device_to)
        self.call_back(CallbacksMP.ON_LOAD, device_to, lowvram_model_memory, force_patch_weights, full_load)

    def patch_model(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        load_weights: bool = True,
        force_patch_weights: bool = False,
    ) -> Any:
        """Put patched objects and weights into the network, and change it by its injections."""
        self.eject_model()
        for name, obj in self.object_patches.items():
            before = put_attribute(self.model, name, obj)
            self.object_patches_backup.setdefault(name, before)
        if load_weights:
            self.load(device_to, lowvram_model_memory, force_patch_weights, full_load=True)
        self.inject_model()
        return self.model

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        """Take all of it out again."""
        self.eject_model()
        if unpatch_weights:
            self._put_back()
            casting.move(self.model, device_to)
        for name, obj in self.object_patches_backup.items():
            put_attribute(self.model, name, obj)
        self.object_patches_backup.clear()

    def partially_load(self, device_to: Any, extra_memory: int = 0, force_patch_weights: bool = False) -> int:
        """Load it whole. Returns the bytes that were loaded; fewer than 0 were unloaded.

        extra_memory: where negative, it is unloaded, once its patches are right.
        """
        before = self.loaded_size()
        self.patch_model(device_to, force_patch_weights=force_patch_weights)
        if extra_memory < 0:
            self.partially_unload(self.offload_device)
        return self.loaded_size() - before

    def partially_unload(self, device_to: Any, memory_to_free: int = 0, force_patch_weights: bool = False) -> int:
        """Unload it whole; its weights wait in pinned memory as far as that reaches. Returns the bytes unloaded."""
        del memory_to_free, force_patch_weights
        freed = self.loaded_size()
        casting.move(self.model, device_to)
        for key in self.weight_keys() if freed else ():
            self.pin_weight_to_device(key)
        return freed

    # -- pinned memory --------------------------------------------------------------------------------------------

    @property
    def pinned(self) -> set[str]:
        """Names of its weights that wait in pinned memory; clones have the same."""
        return set(self._pins)

    def pin_weight_to_device(self, key: str) -> None:
        """Lock the memory of a weight, where it is in the computer's and the budget allows it."""
        manager = loading.newest()
        memory = None if manager is None else manager.pinning()
        weight = attribute(self.model, key)
        if memory is not None and key not in self._pins and memory.pin(weight):
            self._pins[key] = weight.data

    def unpin_weight(self, key: str) -> None:
        """Unlock it."""
        weight = self._pins.pop(key, None)
        if weight is not None:
            loading.newest().pinning().unpin(weight)

    def unpin_all_weights(self) -> None:
        """Unlock all of them."""
        for key in list(self._pins):
            self.unpin_weight(key)

    def detach(self, unpatch_all: bool = True) -> Any:
        """Take it off its device."""
        self.unpatch_model(self.offload_device, unpatch_weights=unpatch_all)
        self.call_back(CallbacksMP.ON_DETACH, unpatch_all)
        return self.model


def attribute(obj: Any, name: str) -> Any:
    """An attribute by its dotted name. Raises BadInput for none of that name."""
    for part in name.split("."):
        if not hasattr(obj, part):
            raise BadInput(f"A model has no {name!r}.", why=f"{type(obj).__name__} has no {part!r}.")
        obj = getattr(obj, part)
    return obj


def put_attribute(obj: Any, name: str, value: Any) -> Any:
    """Replace an attribute by its dotted name. Returns what was there, or None."""
    owner, _, leaf = name.rpartition(".")
    target = attribute(obj, owner) if owner else obj
    before = getattr(target, leaf, None)
    setattr(target, leaf, value)
    return before
