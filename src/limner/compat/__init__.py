"""ComfyUI's module names, for node packs: virtual modules from tables, and adapters between their classes and nodes."""

from limner.compat.finder import Finder, VirtualModule, install, installed, uninstall

__all__ = ["Finder", "VirtualModule", "install", "installed", "uninstall"]
