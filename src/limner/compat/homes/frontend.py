"""`app.frontend_management`: which web front end is served."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


class FrontendManager:
    """The installed web front end."""

    CUSTOM_FRONTENDS_ROOT = ""

    @classmethod
    def get_required_frontend_version(cls) -> str:
        """The version that is installed, "" without one."""
        try:
            return version("comfyui-frontend-package")
        except PackageNotFoundError:
            return ""

    @classmethod
    def default_frontend_path(cls) -> str:
        """The folder of the installed front end. Raises ImportError when none is installed."""
        import comfyui_frontend_package  # noqa: PLC0415 - rarely asked for

        return str(Path(comfyui_frontend_package.__file__ or "").parent / "static")

    @classmethod
    def init_frontend(cls, version_string: str) -> str:
        """The folder of the front end; only the installed one can be had."""
        del version_string
        return cls.default_frontend_path()
