"""Makers for the store's tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.store.jobs import JobStore
from limner.store.records import JobRecord


@dataclass(frozen=True)
class Options:
    """The settings that the store reads, with a base folder of its own."""

    base_directory: str | None = None
    output_directory: str | None = None
    temp_directory: str | None = None
    input_directory: str | None = None
    user_directory: str | None = None
    custom_nodes_directory: str | None = None
    extra_model_paths_config: tuple[str, ...] = ()
    multi_user: bool = False
    database_url: str | None = None
    database_synchronous: str = "normal"
    history_size: int = 100_000
    default_hashing_function: str = "sha256"


def record(prompt_id: str, number: float = 0, **more: Any) -> JobRecord:
    prompt = {"1": {"class_type": "PreviewAny", "inputs": {"source": prompt_id}}}
    return JobRecord(prompt_id, number, prompt, outputs_to_execute=["1"], **({"create_time": 5} | more))


def jobs(folder: Path, **more: Any) -> JobStore:
    return JobStore.open(f"sqlite:///{folder / 'jobs.db'}", **more)


def finished_status(start: int, end: int) -> dict[str, Any]:
    messages = [["execution_start", {"timestamp": start}], ["execution_success", {"timestamp": end}]]
    return {"status_str": "success", "completed": True, "messages": messages}
