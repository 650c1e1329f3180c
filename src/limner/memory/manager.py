"""What is loaded where: networks are brought when entered, stay while there is room, give way as the policy says."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import RLock
from time import perf_counter
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from limner.errors import OutOfMemory
from limner.memory import backends, casting, devices, dtypes, loading, policy
from limner.memory.backends.cpu import pages_of_their_own
from limner.memory.backends.protocol import Backend, Capabilities, Stream
from limner.memory.dtypes import Precision
from limner.memory.holdings import Held, Holding, Key, RunMemory
from limner.memory.pinned import PinnedMemory
from limner.memory.room import Room
from limner.memory.settings import DefaultSettings, MemorySettings
from limner.memory.streaming import Streamer
from limner.memory.units import Loadable, Target

_log = logging.getLogger(__name__)

P = TypeVar("P")
STREAMS = 2
"""Buffers that weights are streamed through where nothing is said: one is filled while the other is read."""
MANY = 8
"""How often the weights of a network are taken to be used where nobody says."""
WORTH_A_LINE = 64 * devices.MIB
"""Bytes of working memory from which on a run's estimate and its peak are told."""
REMEMBERED = 256
"""Requests of the past from which the next ones are guessed."""


class MemoryManager:
    """Keeps loaded networks by weights, dtype and device, re-patches them when their patches changed, makes room.

    One for a process; thread-safe. Which device and dtype a network gets follows the settings and the device. What is
    on a device stays within its budget: what the settings allow (`max_vram`, `max_ram`), less what others take.
    """

    def __init__(
        self,
        settings: MemorySettings | None = None,
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        """backend: in place of the real one, for `device`."""
        self.settings: MemorySettings = settings or DefaultSettings()
        self._device = device
        self._backend = backend
        self._holdings: dict[Key, Holding[Any]] = {}
        self._streamers: dict[str, Streamer] = {}
        self._models: WeakSet[Any] = WeakSet()
        self._log: deque[Key] = deque(maxlen=REMEMBERED)
        self._runs: deque[RunMemory] = deque(maxlen=32)
        self._relief: list[Callable[[int], int]] = []
        self._pinned: PinnedMemory | None = None
        self._clock = 0
        self._lock = RLock()
        self.baseline = backends.of_kind("cpu").used(torch.device("cpu"))
        loading.MANAGERS[1 + max(loading.MANAGERS.keys(), default=-1)] = self

    # -- devices and dtypes ---------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        chooser = loading.CHOOSERS.get("get_torch_device")
        return self.own_device if chooser is None else chooser()

    @property
    def own_device(self) -> torch.device:
        """Where networks run unless a pack chooses otherwise."""
        if self._device is None:
            self._device = devices.compute_device(self.settings)
        return self._device

    @property
    def vae_device(self) -> torch.device:
        """Where autoencoders run."""
        return torch.device("cpu") if self.settings.cpu_vae else self.device

    @property
    def text_device(self) -> torch.device:
        """Where text encoders run: on the CPU where the device is to be spared."""
        spared = self.settings.lowvram or self.settings.novram
        return torch.device("cpu") if spared else self.device

    def backend(self, device: torch.device | None = None) -> Backend:
        """What knows the hardware of a device."""
        device = device or self.device
        if self._backend is not None and device.type == self.own_device.type:
            return self._backend
        return backends.of(device)

    def _capabilities(self, device: torch.device) -> Capabilities:
        return self.backend(device).capabilities(device)

    def place(self, tensor: Tensor, device: torch.device | None = None) -> Tensor:
        """The tensor on the compute device."""
        return tensor.to(device or self.device)

    def unet_precision(self, supported: Sequence[torch.dtype] = dtypes.UNET_ORDER) -> Precision:
        """Of diffusion models; supported: the family's dtypes in its order."""
        return dtypes.unet_precision(self.settings, self._capabilities(self.device), supported)

    def vae_precision(self, supported: Sequence[torch.dtype] = dtypes.VAE_ORDER) -> Precision:
        """Of autoencoders."""
        return dtypes.vae_precision(self.settings, self._capabilities(self.vae_device), supported)

    def text_precision(self) -> Precision:
        """Of text encoders."""
        return dtypes.text_precision(self.settings, self._capabilities(self.text_device))

    def channels_last(self, device: torch.device) -> bool:
        """Whether convolutions are kept with their channels last: when asked, and on the CPUs where it is faster.

        Those are the ones that are fast in bfloat16 (5 to 20 % gained there, 10 to 20 % lost on the others).
        """
        return self.settings.force_channels_last or (device.type == "cpu" and devices.has_native_bf16())

    # -- room -----------------------------------------------------------------------------------------------------

    def room(self, device: torch.device | None = None) -> Room:
        """How much memory a device has for this process."""
        device = device or self.device
        backend = self.backend(device)
        # Through the module: packs replace it.
        return Room(backend, device, self.settings, None if backend is self._backend else loading.get_free_memory)

    def cap(self, device: torch.device | None = None) -> int | None:
        """Bytes that the settings let this process have on a device; None where they say nothing."""
        return self.room(device).cap

    def free_memory(self, device: torch.device | None = None) -> int:
        """Bytes free on a device within its budget, less what the settings leave to others."""
        return max(0, self._free(device or self.device))

    def available(self, device: torch.device | None = None) -> int:
        """Bytes free on a device once everything that is not in use were unloaded."""
        device = device or self.device
        with self._lock:
            idle = sum(one.movable for one in self._on(device) if not one.users)
        return self.free_memory(device) + (0 if self.room(device).keeps_all else idle)

    def add_relief(self, function: Callable[[int], int]) -> None:
        """Ask `function` first when RAM is short: it frees up to so many bytes of results and says how many."""
        self._relief.append(function)

    def free(self, needed: int, device: torch.device | None = None) -> int:
        """Unload what is not in use until `needed` bytes are free, partly where that is enough; how many are free."""
        device = device or self.device
        with self._lock:
            self._make_room(needed, device)
        return self.free_memory(device)

    # -- loading --------------------------------------------------------------------------------------------------

    @contextmanager
    def loaded(
        self,
        source: Loadable[P],
        dtype: torch.dtype | None,
        device: torch.device | None = None,
        working: int = 0,
        least: int | None = None,
        passes: int | None = None,
        compute: torch.dtype | None = None,
    ) -> Iterator[nn.Module]:
        """The network on its device for as long as the block lasts; it may give way afterwards.

        dtype: of the weights, None for as in the file. working: bytes that the computation would like besides, least:
        that it needs at least (as many, where it is not said). passes: how often the weights are used inside the block.
        compute: the dtype of the activations.

        Raises OutOfMemory when it cannot fit even if everything else is unloaded and its weights are streamed.
        """
        device = device or self.device
        with self._lock:
            holding = self._enter(
                source, dtype, device, (working, working if least is None else least), passes, compute
            )
        measured = self._measure(holding, device, working)
        try:
            yield holding.placement.network
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not devices.is_out_of_memory(error):
                raise
            raise self._out_of_memory(source.name, device, working) from error
        finally:
            with self._lock:
                self._leave(holding, device)
                measured()

    def repatch(self, network: nn.Module, patches: Any) -> None:
        """Let a network that is in use have other patches: what weight hooks do between steps."""
        with self._lock:
            holding = next((one for one in self._holdings.values() if one.placement.network is network), None)
            if holding is None:
                raise LookupError("this network is not loaded")
            self._repatch(holding, patches, patches.digest)
            wanted = policy.Wanted(holding.promised, holding.least, MANY)
            self._settle(holding, torch.device(holding.key.device), wanted, begun=True)

    def shrink(self, source: Loadable[Any], nbytes: int) -> int:
        """Take weights of one network off its device, though it may be in use; they are streamed. Bytes that are free
        then: what is done when a computation ran out of memory."""
        with self._lock:
            return sum(self._drop(one, nbytes) for one in self._holdings.values() if self._is(one.key, source))

    def relieve(self, source: Loadable[Any], nbytes: int, device: torch.device | None = None) -> None:
        """Make room after a computation with a network ran out of memory, before it is tried again.

        What is idle on the device goes, and `nbytes` of the network's own weights, which are streamed for as long as it
        is in use.
        """
        device = device or self.device
        with self._lock:
            here = self._on(device)
            self._unload([one for one in here if not one.users], trim=False)
            for one in here:
                if one.users and self._is(one.key, source):
                    one.promised += nbytes
                    one.least += nbytes
                    self._drop(one, nbytes)
            self.trim()

    def unload_all(self) -> None:
        """Unload every network that is not in use."""
        with self._lock:
            self._unload([one for one in self._holdings.values() if not one.users])
            for streamer in self._streamers.values():
                if not any(one.users for one in self._on(streamer.device)):
                    streamer.release()

    def unload(self, source: Loadable[Any]) -> None:
        """Unload one network, unless it is in use."""
        with self._lock:
            self._unload([one for key, one in self._holdings.items() if self._is(key, source) and not one.users])

    def forget(self, source: Loadable[Any]) -> None:
        """Hand a network out no more, though it may be in use: it is not what it is thought to be."""
        with self._lock:
            for key in [key for key in self._holdings if self._is(key, source)]:
                del self._holdings[key]

    def holds(self, source: Loadable[Any]) -> bool:
        """Whether a network is loaded, whatever its patches."""
        with self._lock:
            return any(self._is(key, source) for key in self._holdings)

    def holding(self, source: Loadable[Any]) -> Held | None:
        """What is loaded of a network, if anything is."""
        with self._lock:
            return next((one.shown() for key, one in self._holdings.items() if self._is(key, source)), None)

    def trim(self) -> None:
        """Give memory that nothing uses back to the devices and the system."""
        loading.soft_empty_cache()

    # -- what there is --------------------------------------------------------------------------------------------

    def note(self, model: Any) -> None:
        """Remember a model that has been loaded, for as long as anything else refers to it."""
        self._models.add(model)

    def models(self) -> list[Any]:
        """The models that are loaded."""
        return [model for model in list(self._models) if self.holds(model.source)]

    def forget_dead(self) -> None:
        """Unload networks that belong to no model that is left."""
        with self._lock:
            alive = {(model.source.name, model.source.identity) for model in list(self._models)}
            dead = [k for k, one in self._holdings.items() if not one.users and (k.name, k.identity) not in alive]
            self._unload([self._holdings[key] for key in dead])

    def move(self, module: nn.Module, device: torch.device | None = None) -> nn.Module:
        """A network of someone else's on a device: the compute device where None. Room is made for it."""
        device = device or self.device
        if casting.module_device(module) != device:
            self.free(casting.module_size(module), device)
        return casting.move(module, device)

    def resident(self) -> list[tuple[str, int]]:
        """Names and bytes of the loaded networks."""
        return [(one.name, one.resident) for one in self.held()]

    def held(self) -> list[Held]:
        """What is loaded of each network."""
        with self._lock:
            return [one.shown() for one in self._holdings.values()]

    def buffers(self, device: torch.device | None = None) -> int:
        """Bytes of the buffers that weights are streamed through on a device."""
        streamer = self._streamers.get(str(device or self.device))
        return 0 if streamer is None else streamer.nbytes

    def pinned(self) -> PinnedMemory | None:
        """The page-locked memory in which weights wait; None where none is used."""
        return self._pinned

    def pinning(self, device: torch.device | None = None) -> PinnedMemory | None:
        """The same, made where nothing waits yet; None where a device's kind locks none, or the settings do not let."""
        device = device or self.device
        runtime = self.backend(device).pinning()
        if runtime is None or self.settings.disable_pinned_memory:
            return None
        with self._lock:
            if self._pinned is None:
                self._pinned = PinnedMemory.of(runtime, self.settings, self.backend(device).is_unified(device))
            cpu = self.room(torch.device("cpu"))
            self._pinned.allow(None if cpu.cap is None else max(0, cpu.free))
            return self._pinned

    def copy_stream(self, device: torch.device | None = None) -> Stream | None:
        """The stream that weights are copied to a device on; None where they are copied in the order of computation."""
        return self._streamer(device or self.device).copies

    def last_runs(self) -> list[RunMemory]:
        """The latest runs that asked for working memory: what was thought to be needed and what was."""
        return list(self._runs)

    # -- one request ----------------------------------------------------------------------------------------------

    def _enter(
        self,
        source: Loadable[P],
        dtype: torch.dtype | None,
        device: torch.device,
        wants: tuple[int, int],
        passes: int | None,
        compute: torch.dtype | None,
    ) -> Holding[P]:
        channels_last = self.channels_last(device)
        key = Key(source.name, source.identity, str(device), str(dtype), channels_last)
        self._log.append(key)
        holding = self._holdings.get(key)
        if holding is not None and holding.digest != source.patches_digest and holding.users:
            del self._holdings[key]  # someone computes with the other patches: a second copy, this one goes when done
            holding = None
        if holding is None:
            streamer = self._streamer(device)
            placement = source.place(Target(device, dtype, compute, channels_last, streamer))
            holding = Holding(key, placement, source.patches_digest)
            self._holdings[key] = holding
        holding.users += 1  # not to be unloaded for its own sake
        try:
            self._repatch(holding, source.patches, source.patches_digest)
            self._settle(
                holding, device, policy.Wanted(*wants, passes or MANY, self._next_uses().get(key, policy.NEVER))
            )
        except BaseException as error:
            holding.users -= 1
            if not holding.users:
                self._unload([holding])
            if devices.is_out_of_memory(error) and not isinstance(error, OutOfMemory):
                raise self._out_of_memory(source.name, device, wants[0]) from error
            raise
        self._clock += 1
        holding.last_used = self._clock
        holding.promised, holding.least = max(holding.promised, wants[0]), max(holding.least, wants[1])
        return holding

    def _repatch(self, holding: Holding[P], patches: P, digest: str) -> None:
        """The patch check comes before any other decision: a network is never used with the patches of another."""
        if holding.digest == digest:
            return
        try:
            with pages_of_their_own():
                holding.placement.repatch(patches)
        except BaseException:
            self._holdings.pop(holding.key, None)  # half patched
            raise
        holding.digest = digest

    def _settle(self, holding: Holding[Any], device: torch.device, wanted: policy.Wanted, begun: bool = False) -> None:
        """Bring as many of the weights as there is room for, or take some off; others give way first.

        begun: a computation that has begun has some of what it needs already; it is not refused.
        """
        room, units = self.room(device), holding.placement.units
        packed = max((unit.packed for unit in units), default=0)
        wanted = replace(wanted, working=wanted.working + packed, least=wanted.least + packed)
        buffers = self._streamer(device).buffers
        whole = sum(unit.resident for unit in units)
        loaded = holding.resident
        missing = whole - loaded
        spare = holding.making(units)
        least = policy.least_bytes(units, buffers)
        # Weights are made before a computation begins; networks that are in use around this one compute after it.
        others = [one.promised for one in self._on(device) if one.users and one is not holding]
        working = max(wanted.working, wanted.least, spare, *others)
        enough = max(wanted.least, spare, *others)
        # For one pass streaming its own weights costs no more than what loads others' again: they stay if used sooner.
        patient = wanted.next_use if wanted.passes == 1 and not room.keeps_whole else -1
        needed = working + (0 if room.streams_all else missing)
        free = self._make_room(needed, device, patient, keep=working + max(0, least - loaded))
        if free + loaded < least + enough:
            free = self._make_room_within(least + enough - loaded, device, holding)
        target = room.weights_target(free + loaded, working, enough)
        if room.cap is not None and not begun and free + loaded < least + wanted.least:
            raise self._refusal(holding, device, least, wanted, free + loaded)
        taken = loaded + policy.streaming_cost(units, holding.placement.resident, buffers)
        if policy.to_change(target, taken) < 0 and loaded and not (room.keeps_whole and loaded == whole):
            self._drop(holding, taken - target)
        else:
            self._bring(holding, policy.grown(units, holding.placement.resident, target, buffers), device)
        streamed = policy.largest_buffer(units, holding.placement.resident)
        if streamed:
            self._streamer(device).reserve(streamed)
            self._pin(holding)

    def _bring(self, holding: Holding[Any], indexes: Sequence[int], device: torch.device) -> None:
        if not indexes:
            return
        before = holding.resident
        try:
            with pages_of_their_own():
                holding.placement.bring(indexes)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not devices.is_out_of_memory(error):
                raise
            _log.info("Out of memory while loading the %s: unloading everything else.", holding.key.name)
            self._unload([one for one in self._on(device) if not one.users])
            here = set(holding.placement.resident)
            rest = [i for i in indexes if i not in here]
            missing = sum(holding.placement.units[i].resident for i in rest)
            budget = holding.resident + min(missing, self.free_memory(device))
            fits = policy.grown(holding.placement.units, here, budget, self._streamer(device).buffers)
            with pages_of_their_own():
                holding.placement.bring([i for i in rest if i in set(fits)])
        self._say(holding, "Loaded", holding.resident - before)

    def _drop(self, holding: Holding[Any], needed: int) -> int:
        """Take weights off the device; how many bytes became free."""
        if needed <= 0:
            return 0
        placement = holding.placement
        # An idle network needs no buffers: it settles anew when it is next wanted.
        buffers = self._streamer(torch.device(holding.key.device)).buffers if holding.users else 0
        before = holding.resident
        placement.drop(policy.shrunk(placement.units, placement.resident, needed, buffers))
        self._say(holding, "Partly unloaded", before - holding.resident)
        return before - holding.resident

    def _make_room(self, needed: int, device: torch.device, sooner_than: int = -1, keep: int | None = None) -> int:
        """Let others give way until `needed` bytes are free; how many are.

        sooner_than: those that are used sooner stay, except for the first `keep` bytes of what is needed.
        """
        free = self._free(device)
        if free < needed and device.type == "cpu":
            freed = sum(function(needed - free) for function in self._relief)
            free = self._free(device) if freed else free
        if self.room(device).keeps_all:
            return free
        if free < needed:
            self._give_way(needed - free, device, sooner_than)
            free = self._free(device)
        if keep is not None and sooner_than >= 0 and free < keep:
            self._give_way(keep - free, device, -1)
            free = self._free(device)
        return free

    def _give_way(self, needed: int, device: torch.device, sooner_than: int) -> None:
        ahead = self._next_uses()
        residents = [
            policy.Resident(one.key, one.movable, one.last_used, one.users > 0, ahead.get(one.key, policy.NEVER))
            for one in self._on(device)
        ]
        dropped = False
        for key, nbytes in policy.reclaim(residents, needed, sooner_than):
            holding: Holding[Any] = self._holdings[key]  # type: ignore[index]
            dropped = True
            if nbytes >= holding.movable:
                self._unload([holding], trim=False)
            else:
                self._drop(holding, nbytes)
        if dropped:
            self.backend(device).trim(device)

    def _make_room_within(self, needed: int, device: torch.device, holding: Holding[Any]) -> int:
        """Let networks that are in use beside this one be streamed until `needed` bytes are free; how many are."""
        for one in self._on(device):
            free = self._free(device)
            if one is not holding and one.users and free < needed:
                self._drop(one, needed - free)
        return self._free(device)

    def _leave(self, holding: Holding[Any], device: torch.device) -> None:
        holding.users -= 1
        if not holding.users:
            holding.promised = holding.least = 0
        gone = self._holdings.get(holding.key) is not holding
        if not holding.users and (gone or self.settings.disable_smart_memory):
            self._unload([holding])
        if not any(one.users for one in self._on(device)) and self._streamer(device).nbytes:
            self._streamer(device).release()

    def _unload(self, holdings: Sequence[Holding[Any]], trim: bool = True) -> None:
        for one in holdings:
            if self._holdings.get(one.key) is one:
                del self._holdings[one.key]
            self._say(one, "Unloaded", one.resident)
            one.placement.close()
        if holdings and trim:
            self.trim()

    def _pin(self, holding: Holding[Any]) -> None:
        """Let what is streamed wait in page-locked memory, as far as RAM allows."""
        memory = self.pinning(torch.device(holding.key.device))
        if memory is not None:
            holding.placement.pin(memory)

    # -- small things ---------------------------------------------------------------------------------------------

    def _measure(self, holding: Holding[Any], device: torch.device, working: int) -> Callable[[], None]:
        """Begin to measure what a run takes beside what is there; the result ends that and remembers it."""
        if working <= 0:
            return lambda: None
        backend = self.backend(device)
        before, began = backend.used(device), perf_counter()
        level = logging.INFO if working >= WORTH_A_LINE else logging.DEBUG
        _log.log(level, "The %s may need %d MB beside its weights.", holding.key.name, working // devices.MIB)
        backend.start_peak(device)

        def done() -> None:
            measured = max(0, backend.peak(device) - before)
            run = RunMemory(holding.key.name, holding.key.device, working, measured, perf_counter() - began)
            self._runs.append(run)
            _log.log(level, "%s", run)

        return done

    def _free(self, device: torch.device) -> int:
        return self.room(device).free

    def _next_uses(self) -> dict[Any, int]:
        return policy.next_uses(tuple(self._log))

    def _streamer(self, device: torch.device) -> Streamer:
        found = self._streamers.get(str(device))
        if found is None:
            cap, asked = self.cap(device), self.settings.async_offload
            if cap is not None:  # the allocator's own last word, should an estimate be wrong
                self.backend(device).cap(device, cap)
            count = 1 if self.settings.disable_async_offload else max(1, STREAMS if asked is None else asked)
            found = self._streamers[str(device)] = Streamer(
                self.backend(device), device, count, self.settings.force_non_blocking
            )
        return found

    def _on(self, device: torch.device) -> list[Holding[Any]]:
        return [one for one in self._holdings.values() if one.key.device == str(device)]

    @staticmethod
    def _is(key: Key, source: Loadable[Any]) -> bool:
        return (key.name, key.identity) == (source.name, source.identity)

    def _say(self, holding: Holding[Any], what: str, nbytes: int) -> None:
        if nbytes > 0:
            _log.info("%s", holding.sentence(what, nbytes))

    def _refusal(
        self, holding: Holding[Any], device: torch.device, least: int, wanted: policy.Wanted, free: int
    ) -> OutOfMemory:
        mib, cap = devices.MIB, self.cap(device) or 0
        flag = "--max-ram" if device.type == "cpu" else "--max-vram"
        return OutOfMemory(
            f"The {holding.key.name} cannot run within {flag} {cap // mib} MB.",
            why=f"Even with its weights streamed it needs about {(least + wanted.least) // mib} MB ({least // mib} MB "
            f"for weights in passing, {wanted.least // mib} MB to compute), and {max(0, free) // mib} MB are left; "
            f"resident: {self._listed()}.",
            do=f"Make the picture or the batch smaller, use the tiled form of the node, or raise {flag}.",
        )

    def _out_of_memory(self, name: str, device: torch.device, needed: int) -> OutOfMemory:
        mib = devices.MIB
        return OutOfMemory(
            f"The {name} does not fit into the memory of {device}.",
            why=f"About {needed // mib} MB were asked for, {self.free_memory(device) // mib} MB are free; "
            f"resident: {self._listed()}.",
            do="Make the picture or the batch smaller, close other programs, or start with --lowvram or --cpu.",
        )

    def _listed(self) -> str:
        shown = [f"{one.name} {one.resident // devices.MIB} MB" for one in self.held() if one.resident]
        return ", ".join(shown) or "nothing"
