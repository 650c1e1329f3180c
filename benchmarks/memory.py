"""What do loading, changing models and LoRAs and deciding what stays cost?   full size, random weights, on the CPU.

2.1 GB (Stable Diffusion 1.5) and 5 GB (SDXL's diffusion model), in the dtype that this CPU computes in and as in the
file, against safetensors' `load_file` and a copy in the same run: at most its peak of resident memory. Against
ComfyUI's 4.6 GB after three runs of Stable Diffusion 1.5 in float32. Deciding: under a millisecond for 2,000 modules.
500 pictures leave resident memory within 2 %. `full_size` asks whether caps hold. Needs 11 GB of disk and 16 of RAM;
`python -m benchmarks.memory deciding loading three switching many` chooses, a folder keeps the files.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from time import thread_time

from benchmarks import report
from benchmarks._full_size import Watch, checkpoint, lora, private, prompt, resident
from benchmarks._loading import in_a_process
from benchmarks.full_size import run
from limner.memory import policy
from limner.memory.units import Unit, Units
from tests.serving import serving

GB, MB = 1e9, 1_000_000
MODULES, REQUESTS, MOST_MS = 2_000, 256, 1.0
COMFYUI_GB = 4.6
RUNS, WARM, FLAT = 500, 50, 1.02


def deciding() -> None:
    """CPU time of what is decided at a request: what comes when, who gives way, what is brought or dropped."""
    random = Random(0)
    sizes = [random.randrange(1, 64) << 20 for _ in range(MODULES)]
    units = Units(Unit(str(i), size, 2 * size, size, making=size) for i, size in enumerate(sizes))
    log = [random.randrange(6) for _ in range(REQUESTS)]
    others = [policy.Resident(i, 1 << 32, i, False, random.randrange(9)) for i in range(16)]
    half, whole = set(range(0, MODULES, 2)), sum(sizes)

    def before() -> None:
        policy.next_uses(log)
        policy.reclaim(others, 20 << 30)

    def bring() -> None:
        before()
        policy.grown(units, (), whole // 2, 2)

    def drop() -> None:
        before()
        policy.shrunk(units, half, whole // 4, 2)

    calls: dict[str, Callable[[], object]] = {"what to bring": bring, "what to drop": drop}
    for what, call in calls.items():
        times = []
        for _ in range(200):
            start = thread_time()
            call()
            times.append((thread_time() - start) * 1e3)
        report("deciding", what=what, modules=MODULES, requests=REQUESTS, value=round(min(times), 2), budget=MOST_MS,
               median=round(median(times), 2), unit="ms of CPU time, best of 200")  # fmt: skip


def loading(base: Path) -> None:
    """Time and peak memory of loading, against `load_file` and a copy."""
    for name, size in {"sd15": "2.1 GB", "sdxl-base-unet": "5 GB"}.items():
        for form in ("computed", "file"):
            ours, theirs = (
                in_a_process("load", file_of(base, name), way, form, "" if name == "sd15" else "alone")
                for way in ("limner", "reference")
            )
            report(
                "load", of=size, form={"computed": "as computed", "file": "as in the file"}[form],
                seconds=round(ours["seconds"], 2), reference=round(theirs["seconds"], 2),
                ratio=round(theirs["seconds"] / ours["seconds"], 2),
                ratio_of_cpu=round(theirs["cpu"] / ours["cpu"], 2), kept_gb=round(ours["kept"] / GB, 2),
            )  # fmt: skip
            report(
                "peak resident memory of loading, of load_file and a copy", of=size, form=form,
                value=round(ours["peak"] / theirs["peak"], 2), budget=1.0, gb=round(ours["peak"] / GB, 2),
                reference_gb=round(theirs["peak"] / GB, 2), private_gb=round(ours["private"] / GB, 2),
                reference_private_gb=round(theirs["private"] / GB, 2),
            )  # fmt: skip


def three(base: Path) -> None:
    """Stable Diffusion 1.5 in float32, three pictures, as ComfyUI was measured."""
    file_of(base, "sd15")
    with serving(base, "--fp32-unet", "--fp32-vae") as server:
        pid = server.process.pid
        with Watch(lambda: resident(pid)) as watch:
            seconds = [run(server, prompt("sd15.safetensors", None, seed, 256)) for seed in range(3)]
        report("resident memory, Stable Diffusion 1.5 in float32, three runs", value=round(resident(pid) / GB, 2),
               budget=COMFYUI_GB, unit="GB; the budget is ComfyUI's, measured beforehand",
               peak=round(watch.peak / GB, 2), private=round(private(pid) / GB, 2),
               seconds=[round(one, 1) for one in seconds])  # fmt: skip


def switching(base: Path) -> None:
    """From one model to the other and back, and from one LoRA to another."""
    files = [file_of(base, name) for name in ("sd15", "sd15-other")]
    loras = [base / "models/loras" / f"sd15-{seed}.safetensors" for seed in range(2)]
    for seed, path in enumerate(loras):
        lora(path, "sd15", seed)
    for room in ("both", "one"):
        found = in_a_process("models", *files, room)
        report("change of models", of="Stable Diffusion 1.5's diffusion model", room=f"for {room}",
               value=round(found["seconds"], 3), reference=round(found["reference"], 2), unit="s, median of 4",
               ratio=round(found["reference"] / found["seconds"], 2))  # fmt: skip
    found = in_a_process("loras", files[0], *loras)
    report("change of LoRAs", modules=found["modules"], value=round(found["seconds"], 2), unit="s, median of 4",
           arithmetic=round(found["arithmetic"], 2), ratio=round(found["anew"] / found["seconds"], 2),
           least=1.0, reference="loading the model anew with the LoRA")  # fmt: skip


def many(base: Path) -> None:
    """Many pictures of the starter model, one after the other: medians, as pages of files come and go."""
    with serving(base) as server:
        pid = server.process.pid
        taken, own = [], []
        for seed in range(WARM + RUNS):
            run(server, prompt("limner-starter.safetensors", None, seed, 64, f"house {seed}"))
            taken.append(resident(pid))
            own.append(private(pid))
            if seed % 50 == 0:
                print(f"  {seed}: {taken[-1] // MB} MB, {own[-1] // MB} private", file=sys.stderr, flush=True)
    for what, values in {"resident": taken, "private": own}.items():
        before, after = median(values[:WARM][-25:]), median(values[-25:])
        report(f"{what} memory after {RUNS} runs, of before", value=round(after / before, 3), budget=FLAT,
               before_mb=round(before / MB, 1), after_mb=round(after / MB, 1),
               highest_mb=round(max(values) / MB, 1))  # fmt: skip


def file_of(base: Path, name: str) -> Path:
    """A checkpoint at full size, written where it is not there yet."""
    path = base / "models/checkpoints" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    (base / "models/loras").mkdir(parents=True, exist_ok=True)
    if not path.exists():
        checkpoint(path, name.removesuffix("-other"))
    return path


PARTS: dict[str, Callable[[Path], None]] = {
    "deciding": lambda _: deciding(),
    "loading": loading,
    "three": three,
    "switching": switching,
    "many": many,
}


def main(arguments: list[str]) -> None:
    """Measure and report the parts that are named, or all."""
    folders = [one for one in arguments if one not in PARTS]
    with tempfile.TemporaryDirectory() as temporary:
        for name in [one for one in arguments if one in PARTS] or PARTS:
            PARTS[name](Path(folders[0] if folders else temporary))


if __name__ == "__main__":
    main(sys.argv[1:])
