"""What the homes of ComfyUI's modules work with: one value per installed finder, so nothing here is global."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.compat.finder import current as current_finder
from limner.errors import LimnerError
from limner.graph import CURRENT_RUN, Run


@dataclass
class NodeTables:
    """The registries that packs read and write: ComfyUI's `nodes.NODE_CLASS_MAPPINGS` and its companions.

    classes, titles: by kind. web: folder of scripts by the name it is served under. modules: a pack's folder by the
    name of its module. builtins: the generated class of each built-in kind, to tell what packs have replaced.
    """

    classes: dict[str, Any] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    web: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    builtins: dict[str, type] = field(default_factory=dict)


@dataclass(eq=False)
class Host:
    """The parts of this process that packs reach through ComfyUI's names.

    registry: the built-in nodes, without those of packs. memory: makes or gives the memory manager.
    engine: None until there is one.
    server: the `PromptServer` that packs see, made by its home when it is first asked for.
    """

    settings: Any
    store: Any
    registry: Any = None
    memory: Callable[[], Any] = lambda: None
    engine: Any = None
    tables: NodeTables = field(default_factory=NodeTables)
    server: Any = None
    parts: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str, make: Callable[[Host], Any]) -> Any:
        """Something a home keeps per host, made when first asked for."""
        if name not in self.parts:
            self.parts[name] = make(self)
        return self.parts[name]

    @property
    def base(self) -> Path:
        """The folder that holds models, input, output, temp, user and custom_nodes."""
        given = self.settings.base_directory
        return Path(given).expanduser().absolute() if given else Path.cwd()

    def run(self, prompt: Mapping[str, Any] | None = None, extra_pnginfo: Mapping[str, Any] | None = None) -> Run:
        """The run of the node that is called now, or a plain one for code that runs outside of prompts."""
        running = CURRENT_RUN.get()
        if running is not None and prompt is None and extra_pnginfo is None:
            return running
        return Run(
            prompt_id=running.prompt_id if running else "",
            node_id=running.node_id if running else "",
            settings=self.settings,
            store=self.store,
            memory=running.memory if running else self.memory(),
            sink=running.sink if running else NoProgress(),
            prompt=prompt or {},
            extra_pnginfo=extra_pnginfo,
        )


class NoProgress:
    """The progress of what runs outside of prompts."""

    def progress(self, node_id: str, value: float, total: float, preview: Any | None = None) -> None:
        """Go on."""

    def check(self) -> None:
        """Go on."""

    def tell(self, node_id: str, text: str) -> None:
        """Go on."""


def current() -> Host:
    """The host of the finder that is installed. Raises LimnerError where ComfyUI's names have none."""
    finder = current_finder()
    if finder is None or finder.host is None:
        raise LimnerError(
            "ComfyUI's modules have nothing to work with here.",
            why="They were imported without an engine.",
            do="Load packs through `limner serve` or `limner run`, or install the finder with a host.",
        )
    host: Host = finder.host
    return host
