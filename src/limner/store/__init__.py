"""What is kept: model folders, files, users, and the durable queue and history."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from limner.store.files import Files, SaveTarget
from limner.store.folders import ModelFolders
from limner.store.records import JobRecord, JobSummary
from limner.store.users import AlreadyThere, Users

if TYPE_CHECKING:
    from limner.store.jobs import JobStore

__all__ = ["AlreadyThere", "Files", "JobRecord", "JobSummary", "ModelFolders", "SaveTarget", "Store", "StoreSettings"]
__all__ += ["Users"]


class StoreSettings(Protocol):
    """The settings that the store reads: the flags of these names. None means the default place."""

    @property
    def base_directory(self) -> str | None:
        """The folder of models, input, output, temp, user and custom_nodes; the working directory by default."""

    @property
    def output_directory(self) -> str | None:
        """Where results go."""

    @property
    def temp_directory(self) -> str | None:
        """The parent of `temp`."""

    @property
    def input_directory(self) -> str | None:
        """Where uploads go."""

    @property
    def user_directory(self) -> str | None:
        """Where users' files and the database are."""

    @property
    def custom_nodes_directory(self) -> str | None:
        """Folders of node packs, separated as in PATH."""

    @property
    def extra_model_paths_config(self) -> Sequence[str]:
        """Model path files to read."""

    @property
    def multi_user(self) -> bool:
        """Whether requests say which user asks."""

    @property
    def database_url(self) -> str | None:
        """An SQLAlchemy URL; by default `limner.db` in the user folder."""

    @property
    def history_size(self) -> int:
        """How many finished prompts are kept."""

    @property
    def database_synchronous(self) -> str:
        """`normal` or `full`: whether an accepted prompt also survives power loss."""

    @property
    def default_hashing_function(self) -> str:
        """The hash that recognises files uploaded twice."""


@dataclass(frozen=True)
class Store:
    """Everything that is kept on disk. `owned`: this process owns the queue and the temp folder."""

    folders: ModelFolders
    files: Files
    users: Users
    jobs: JobStore
    owned: bool = True

    @classmethod
    def open(cls, settings: StoreSettings, *, owned: bool = True) -> Store:
        """Open the folders and the database that the settings name; the temp folder is emptied.

        owned: False for a short command beside a server that may be running: its queue is in memory, and the temp
        folder is left as it is. Raises LimnerError when another process owns the database, and BadInput for settings
        that cannot be used.
        """
        from limner.store.jobs import JobStore  # noqa: PLC0415 - SQLAlchemy is only for who opens a store

        base = _place(settings.base_directory) or Path.cwd()
        roots = folders_of(settings)
        packs = _places(settings.custom_nodes_directory)
        configs = [Path(file).expanduser() for file in settings.extra_model_paths_config]
        folders = ModelFolders.open(base, roots["output"], configs, packs)
        files = Files(roots, settings.default_hashing_function)
        url = "sqlite://"
        if owned:
            url = settings.database_url or f"sqlite:///{roots['user'] / 'limner.db'}"
        jobs = JobStore.open(url, settings.database_synchronous, settings.history_size)
        if owned:
            files.make()
            files.wipe_temp()
        return cls(folders, files, Users(roots["user"], multi=settings.multi_user), jobs, owned)

    def of(self, owner: str | None) -> Store:
        """The store as the API key of that name has it: its own input, output and temp folders; else the whole."""
        return self if owner is None else replace(self, files=self.files.of(owner))

    def close(self) -> None:
        """Write what is left, close the database and empty the temp folder."""
        self.jobs.close()
        if self.owned:
            self.files.wipe_temp()


def folders_of(settings: StoreSettings) -> dict[str, Path]:
    """Where the input, output, temp and user folders are; each flag wins over --base-directory."""
    base = _place(settings.base_directory) or Path.cwd()
    return {
        "input": _place(settings.input_directory) or base / "input",
        "output": _place(settings.output_directory) or base / "output",
        "temp": (_place(settings.temp_directory) or base) / "temp",
        "user": _place(settings.user_directory) or base / "user",
    }


def _places(given: str | None) -> list[Path]:
    """The folders of a list written as PATH is; spaces around them and empty parts do not count."""
    parts = [part.strip() for part in (given or "").split(os.pathsep)]
    return [Path(part).expanduser().absolute() for part in parts if part]


def _place(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given).expanduser().absolute()
