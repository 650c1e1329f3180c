"""Does the budget hold with models at full size?   SD 1.5 and SDXL, random weights, a real server on the CPU.

`--max-ram` at 1.25 times the largest component (SDXL's diffusion model as this CPU keeps it) over thirty prompts that
alternate two checkpoints and three LoRAs: the peak of private memory, seen from outside, stays under the cap. After
`POST /free` resident memory is within 100 MB of the idle server's once it had run a prompt's imports. A mapped SDXL
that is only streamed costs less than 1.5 GB of private memory; its time against the resident run is reported.
Needs 9 GB of disk and 16 GB of RAM; `--quick` runs six prompts.
"""

from __future__ import annotations

import sys
import tempfile
from math import prod
from pathlib import Path
from time import perf_counter

from benchmarks import report
from benchmarks._full_size import Watch, checkpoint, lora, private, prompt, resident
from limner.memory import DefaultSettings, MemoryManager
from tests.models.checkpoints import real_header
from tests.serving import Server, serving

MB = 1_000_000
FREED, STREAMED, SHARE = 100, 1500, 1.25
PARTS = ("sd15", "sdxl-base")


def run(server: Server, graph: dict[str, object]) -> float:
    """Seconds of a prompt; fails with the server's log where it did not succeed."""
    start = perf_counter()
    answer = server.post("/prompt?wait=true", {"prompt": graph}, 600)
    if answer["status"]["status_str"] != "success":
        raise AssertionError(f"{answer['status']}\n{server.log.read_text()[-3000:]}")
    return perf_counter() - start


def alternating(base: Path, cap: int, count: int) -> None:
    """Thirty prompts under a cap, then `/free`."""
    loras = {"sd15": ["one.safetensors", None], "sdxl-base": ["two.safetensors", "three.safetensors"]}
    with serving(base, "--max-ram", f"{cap // 1024}K") as server:
        pid = server.process.pid
        server.get("/object_info")
        with Watch(lambda: private(pid)) as watch:
            for number in range(count):
                name = PARTS[number % 2]
                graph = prompt(f"{name}.safetensors", loras[name][number // 2 % 2], number, text=f"house {number}")
                seconds = run(server, graph)
                print(f"  {number}: {name} {seconds:.1f} s, peak {watch.peak // MB} MB", file=sys.stderr, flush=True)
        report("peak private memory under --max-ram", prompts=count, cap=cap // MB, value=watch.peak // MB,
               budget=cap // MB)  # fmt: skip
        server.post("/free", {"unload_models": True, "free_memory": True}, 60)
        print(f"  after /free: {resident(pid) // MB} MB", file=sys.stderr)
        freed = resident(pid)
    with serving(base) as idle:  # one that has imported all, and run nothing large
        run(idle, prompt("limner-starter.safetensors", None, 0, 64))
        idle.post("/free", {"unload_models": True, "free_memory": True}, 60)
        report("resident memory after /free, more than an idle server's", idle=resident(idle.process.pid) // MB,
               value=(freed - resident(idle.process.pid)) // MB, budget=FREED)  # fmt: skip


def streaming(base: Path) -> None:
    """SDXL with too little memory for its weights, against SDXL resident."""
    seconds = {}
    for name, flags in {"resident": (), "streamed": ("--max-ram", f"{STREAMED * MB // 1024}K")}.items():
        with serving(base, *flags) as server:
            pid = server.process.pid
            with Watch(lambda pid=pid: private(pid)) as watch:  # type: ignore[misc]
                run(server, prompt("sdxl-base.safetensors", None, 1))
                seconds[name] = run(server, prompt("sdxl-base.safetensors", None, 2))
    report("private memory of a streamed SDXL", value=watch.peak // MB, budget=STREAMED,
           seconds={name: round(one, 1) for name, one in seconds.items()},
           time_ratio=round(seconds["streamed"] / seconds["resident"], 2))  # fmt: skip


def write(base: Path) -> int:
    """The files, where they are not there yet; bytes of the largest component as this CPU keeps it."""
    for kind in ("checkpoints", "loras"):
        (base / "models" / kind).mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if not (base / "models/checkpoints" / f"{name}.safetensors").exists():
            checkpoint(base / "models/checkpoints" / f"{name}.safetensors", name)
    for seed, (name, header) in enumerate({"one": "sd15", "two": "sdxl-base", "three": "sdxl-base"}.items()):
        lora(base / "models/loras" / f"{name}.safetensors", header, seed)
    unet = real_header("sdxl-base").select("model.diffusion_model.")
    kept = MemoryManager(DefaultSettings(cpu=True)).unet_precision().storage
    return sum(prod(unet.shape(one)) for one in unet) * (kept.itemsize if kept else 2)


def main(arguments: list[str]) -> None:
    """Measure and report. A folder may be named, in which the files stay."""
    folders = [one for one in arguments if not one.startswith("--")]
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(folders[0] if folders else temporary)
        largest = write(base)
        if "--streamed" not in arguments:
            alternating(base, int(SHARE * largest), 6 if "--quick" in arguments else 30)
        if "--alternating" not in arguments:
            streaming(base)


if __name__ == "__main__":
    main(sys.argv[1:])
