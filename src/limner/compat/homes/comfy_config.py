"""`comfy_config`: the keys of a pack's `pyproject.toml` as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.compat.discovery import Pack


@dataclass
class License:
    """A licence by its file or its text."""

    file: str = ""
    text: str = ""


@dataclass
class URLs:
    """Where a pack is to be found."""

    homepage: str = ""
    documentation: str = ""
    repository: str = ""
    issues: str = ""


@dataclass
class Model:
    """A model that a pack needs."""

    location: str = ""
    model_url: str = ""


@dataclass
class ProjectConfig:
    """The table [project]."""

    name: str = ""
    version: str = "1.0.0"
    description: str = ""
    dependencies: list[str] = field(default_factory=list)
    license: License = field(default_factory=License)
    requires_python: str = ">= 3.9"
    urls: URLs = field(default_factory=URLs)
    supported_os: list[str] = field(default_factory=list)
    supported_accelerators: list[str] = field(default_factory=list)


@dataclass
class ComfyConfig:
    """The table [tool.comfy]."""

    publisher_id: str = ""
    display_name: str = ""
    icon: str = ""
    models: list[Model] = field(default_factory=list)
    includes: list[str] = field(default_factory=list)
    web: str | None = None
    banner_url: str = ""


@dataclass
class PyProjectConfig:
    """A pack's project file. tool_comfy: what it says to Limner and ComfyUI."""

    project: ProjectConfig = field(default_factory=ProjectConfig)
    tool_comfy: ComfyConfig = field(default_factory=ComfyConfig)


def extract_node_configuration(path: str | Path) -> PyProjectConfig | None:
    """The project file of a pack's folder, None where there is none or it cannot be read."""
    plain = Pack(Path(path)).project()
    if not plain:
        return None
    project, comfy = _table(plain, "project"), _table(_table(plain, "tool"), "comfy")
    urls = {str(key).lower(): str(value) for key, value in _table(project, "urls").items()}
    known = {name: urls[name] for name in ("homepage", "documentation", "repository", "issues") if name in urls}
    return PyProjectConfig(
        ProjectConfig(
            **_texts(project, name="name", version="version", description="description"),
            dependencies=[str(one) for one in project.get("dependencies", [])],
            license=_license(project.get("license")),
            **_texts(project, requires_python="requires-python"),
            urls=URLs(**known),
        ),
        ComfyConfig(
            **_texts(comfy, publisher_id="PublisherId", display_name="DisplayName", icon="Icon", web="web"),
            **_texts(comfy, banner_url="Banner"),
            models=[Model(str(one.get("location", "")), str(one.get("model_url", ""))) for one in _models(comfy)],
            includes=[str(one) for one in comfy.get("includes", [])],
        ),
    )


def _table(plain: dict[str, Any], key: str) -> dict[str, Any]:
    found = plain.get(key)
    return found if isinstance(found, dict) else {}


def _texts(table: dict[str, Any], **names: str) -> dict[str, Any]:
    return {field: table[key] for field, key in names.items() if isinstance(table.get(key), str)}


def _models(comfy: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in comfy.get("Models", []) if isinstance(one, dict)]


def _license(found: Any) -> License:
    if isinstance(found, dict):
        return License(**_texts(found, file="file", text="text"))
    return License(text=found) if isinstance(found, str) else License()
