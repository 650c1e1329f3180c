"""Record what the engine asks of its memory manager: `python -m tests.memory.record_traces [NAME …]`.

Each session of `scenarios.py` runs on networks at reduced width, on the CPU, by the real engine and its nodes. What is
written is every request in order: the network, its patches, the bytes that it works with, at the pictures' size in
life (linear in their area, so times `ZOOM`²), and each pass in which its weights are used. What other programs take is
laid down by the session. Networks are named `file.part`; `full_size.py` knows how large they are in life.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from limner.cli.assemble import assembled
from limner.memory.manager import MemoryManager
from limner.models.metadata import overrides
from limner.models.vae.kind import recognise
from limner.models.vae.taesd import TAESDConfig, TinyDecoder
from limner.settings import Settings
from limner.weights import CheckpointHeader, save
from tests.families.make import Small, seeded_tensor, write, write_shared
from tests.families.networks import ENCODERS
from tests.memory.full_size import autoencoder_header
from tests.memory.scenarios import FAMILIES, ZOOM, Free, Others, Scenario, scenarios
from tests.reference.make import seeded

TRACES = Path(__file__).parent / "traces"
PARTS = {"diffusion model": "diffusion", "text encoder": "text", "VAE": "vae", "TAESD decoder": "decoder"}
"""What sources call themselves → part."""
LORAS = {"a": r"attn.*(qkv|to_|q|k|v|proj)", "b": r"attn|mlp|ff\.", "c": r"(attn|ff).*1"}
"""Letter → which weights of a diffusion model a LoRA changes; a and c change text encoders too."""
TILE = 2 * 1024 * 512
"""Bytes of an element for each pixel of the largest tile in which autoencoders decode."""
LONGEST = 8
"""Events of a cycle that is written once."""


@dataclass
class Recorder:
    """Notes what a manager is asked. files: identity → name. decoding: of files with an autoencoder, see `decoding`."""

    files: Mapping[str, str]
    decoding: Mapping[str, float]
    events: list[list[Any]] = field(default_factory=list)
    networks: dict[str, str] = field(default_factory=dict)
    patches: dict[str, dict[str, str]] = field(default_factory=dict)
    numbers: dict[tuple[str, str], str] = field(default_factory=dict)
    life: dict[str, float] = field(default_factory=dict)
    blocks: dict[int, list[object]] = field(default_factory=dict)
    pending: list[Others] = field(default_factory=list)
    passes: int = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Every manager of the process, inside the block."""
        loaded, unload_all = MemoryManager.loaded, MemoryManager.unload_all

        @contextmanager
        def noted(*places: Any, **named: Any) -> Iterator[nn.Module]:
            said = signature(loaded).bind(*places, **named).arguments
            key = self._key(said["source"], said["dtype"])
            self.events.append(["enter", key, self._asked(key, said["source"], said)])
            with loaded(*places, **named) as network, self._counting(key, network):
                yield network
            self.events.append(["exit", key])

        def unloaded(manager: MemoryManager) -> None:
            self.events.append(["unload"])
            unload_all(manager)

        with patch.object(MemoryManager, "loaded", noted), patch.object(MemoryManager, "unload_all", unloaded):
            yield

    def disturb(self, others: Others) -> None:
        """Note what other programs take, now or once the next prompt has come so far."""
        if others.after:
            self.pending.append(others)
        else:
            self.events.append(["others", others.nbytes])

    def _key(self, source: Any, dtype: torch.dtype | None) -> str:
        part = next((short for name, short in PARTS.items() if source.name == name), "control")
        key = f"{'+'.join(self.files[one] for one in source.identity.split('+'))}.{part}"
        self.networks[key] = str(dtype).removeprefix("torch.")
        return key

    def _asked(self, key: str, source: Any, said: Mapping[str, Any]) -> dict[str, Any]:
        """What is wanted, at the size in life. passes: how often the weights will be used, as the asker says."""
        larger = ZOOM**2 * self._wider(key)
        asked = {"working": round(said.get("working", 0) * larger), "passes": said.get("passes")}
        if (least := said.get("least")) is not None:
            asked["least"] = round(least * larger)
        if key.endswith(".vae"):
            asked["tiled"] = min(asked["working"], round(self._life(key) * TILE))
        if source.patches:
            asked["patches"] = self._number(key, source)
        return {name: value for name, value in asked.items() if value not in (0, None)}

    def _wider(self, key: str) -> float:
        """What an autoencoder takes for a pixel in life, of what it takes at reduced width."""
        return self._life(key) / self.decoding[key.removesuffix(".vae")] if key.endswith(".vae") else 1.0

    def _life(self, key: str) -> float:
        """Elements that an autoencoder in life has alive for a pixel."""
        if key not in self.life:
            self.life[key] = decoding(autoencoder_header(key), {})
        return self.life[key]

    def _number(self, key: str, source: Any) -> str:
        """The number of a set of patches: names with `*` for numbers → a word for the patches of all that match."""
        known = key, source.patches_digest
        if known not in self.numbers:
            self.numbers[known] = str(len(self.numbers) + 1)
            found: dict[str, list[str]] = {}
            for name in source.patches:
                pattern = re.sub(r"\d+", "*", name.removeprefix(source.prefix))
                found.setdefault(pattern, []).append(source.patches.key_digest(name))
            self.patches[self.numbers[known]] = {
                pattern: hashlib.sha256("".join(sorted(all_of)).encode()).hexdigest()[:6]
                for pattern, all_of in sorted(found.items())
            }
        return self.numbers[known]

    @contextmanager
    def _counting(self, key: str, network: nn.Module) -> Iterator[None]:
        """Note each pass: it begins when the module that was used first is used again."""
        first: list[nn.Module] = []
        children: list[set[str]] = []
        event_of: list[list[Any]] = []
        own = {
            name: one for name, one in network.named_modules() if next(one.parameters(recurse=False), None) is not None
        }
        names = {id(one): name.partition(".")[0] for name, one in own.items()}

        inside = self.blocks.setdefault(id(network), [])
        inside.append(first)

        def used(module: nn.Module, *_: Any) -> None:
            if inside[-1] is not first:
                return  # a block within this one counts
            if not first or module is first[0]:
                first[:] = [module]
                children.append(set())
                event_of.append(["use", key])
                self.events.append(event_of[-1])
                self._next_pass()
            children[-1].add(names[id(module)])

        hooks = [one.register_forward_pre_hook(used) for one in own.values()]
        try:
            yield
        finally:
            inside.pop()
            for hook in hooks:
                hook.remove()
            if key.endswith((".text", ".vae")):
                for event, found in zip(event_of, children, strict=True):
                    if found != set(names.values()):
                        event.append(sorted(found))

    def _next_pass(self) -> None:
        self.passes += 1
        for others in [one for one in self.pending if one.after <= self.passes]:
            self.pending.remove(others)
            self.events.append(["others", others.nbytes])


def decoding(header: CheckpointHeader, said: Mapping[str, Any]) -> float:
    """Elements that an autoencoder has alive for a pixel of a picture that it decodes."""
    match = recognise(header)
    assert match is not None
    kind, part = match
    return kind.describe(kind.infer_config(part, said)).decode_peak.elements(1, 1)


def shortened(events: list[Any]) -> list[Any]:
    """The same with cycles written once: ["repeat", times, events]."""
    found: list[Any] = []
    place = 0
    while place < len(events):
        best = (0, 1, 1)
        for period in range(1, LONGEST + 1):
            cycle, times = events[place : place + period], 1
            while events[place + times * period : place + (times + 1) * period] == cycle:
                times += 1
            best = max(best, ((times - 1) * period, period, times))
        saved, period, times = best
        if saved > 1:
            found.append(["repeat", times, shortened(events[place : place + period])])
            place += period * times
        else:
            found.append(events[place])
            place += 1
    return found


def write_lora(small: Small, letter: str, models: Path) -> None:
    """A LoRA of rank 1 for a family."""
    pattern, tensors = re.compile(LORAS[letter]), {}
    weights = {
        f"diffusion_model.{name}": one for name, one in small.diffusion.tensors().items() if pattern.search(name)
    }
    if letter != "b":
        for kind in small.text:
            names = ENCODERS[kind].tensors()
            weights |= {
                f"text_encoders.{kind}.transformer.{name}": one for name, one in names.items() if "attn" in name
            }
    for name, weight in weights.items():
        if weight.ndim == 2 and name.endswith(".weight"):
            short = name.removesuffix(".weight")
            tensors[f"{short}.lora_up.weight"] = seeded_tensor(weight.shape[0], 1) * 0.01
            tensors[f"{short}.lora_down.weight"] = seeded_tensor(1, weight.shape[1]) * 0.01
    path = models / "loras" / f"{small.file.removesuffix('.safetensors')}_{letter}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, tensors, {})


def write_files(base: Path, wanted: list[Scenario]) -> dict[str, str]:
    """All files of some sessions. Returns identity → name."""
    models = base / "models"
    write_shared(base)
    for name in sorted({name for scenario in wanted for name in scenario.smalls}):
        write(FAMILIES[name], models)
        for letter in LORAS:
            write_lora(FAMILIES[name], letter, models)
    for name in ("taesd_decoder", "taesdxl_decoder", "taef1_decoder"):
        config = TAESDConfig(16 if name == "taef1_decoder" else 4, 8)
        path = models / "vae_approx" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, dict(seeded(TinyDecoder(config)).state_dict()), {})
    return {CheckpointHeader.read(file).identity: file.stem for file in models.rglob("*.safetensors")}


def decodings(models: Path) -> dict[str, float]:
    """Of each file that holds an autoencoder, by its name."""
    found: dict[str, float] = {}
    for file in [*models.glob("checkpoints/*"), *models.glob("vae/*")]:
        header = CheckpointHeader.read(file)
        for prefix in ("first_stage_model.", "vae.", ""):
            part = header.select(prefix)
            if recognise(part) is not None:
                found[file.stem] = decoding(part, overrides(header, "vae"))
                break
    return found


async def record(scenario: Scenario, base: Path, files: Mapping[str, str]) -> dict[str, Any]:
    """A session's trace."""
    recorder = Recorder(files, decodings(base / "models"))
    kept = {"cpu": True, "bf16_unet": True, "bf16_vae": True, "bf16_text_enc": True, **scenario.settings}
    with recorder.recording(), assembled(Settings(base_directory=str(base), **kept)) as parts:
        await parts.engine.start()
        try:
            for step in scenario.steps:
                if isinstance(step, Others):
                    recorder.disturb(step)
                elif isinstance(step, Free):
                    parts.engine.free(unload_models=True)
                else:
                    recorder.passes = 0
                    accepted = await parts.engine.submit({"prompt": step, "client_id": "record"})
                    entry = await parts.engine.wait(accepted.prompt_id)
                    assert entry is not None
                    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
        finally:
            await parts.engine.close()
    counted = Counter(event[0] for event in recorder.events)
    assert counted["enter"] == counted["exit"]
    assert not recorder.pending
    return {
        "about": scenario.about,
        "networks": dict(sorted(recorder.networks.items())),
        "patches": recorder.patches,
        "events": shortened(recorder.events),
    }


def as_text(trace: Mapping[str, Any]) -> str:
    """JSON with a line for each event."""
    head = {name: value for name, value in trace.items() if name != "events"}
    lines = ",\n  ".join(json.dumps(event, separators=(",", ":")) for event in trace["events"])
    text = json.dumps(head, indent=1)
    return f'{text[:-2]},\n "events": [\n  {lines}\n ]\n}}\n'


def main(names: list[str]) -> None:
    """The command."""
    wanted = [one for one in scenarios() if not names or one.name in names]
    TRACES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        files = write_files(base, wanted)
        for scenario in wanted:
            text = as_text(asyncio.run(record(scenario, base, files)))
            (TRACES / f"{scenario.name}.json").write_text(text)
            print(f"{scenario.name}: {len(text)} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
