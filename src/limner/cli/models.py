"""limner models: what model files are found, and where they were looked for."""

from __future__ import annotations

from collections.abc import Iterator

from limner.settings import Settings


def models(settings: Settings, folder: str = "", paths: bool = False) -> Iterator[str]:
    """List the model files that are found.

    folder: only this kind of model, for example checkpoints.
    paths: say where each file lies, and which folders were searched.
    """
    from limner.store import Store

    store = Store.open(settings, owned=False)
    try:
        found = 0
        for key in [folder] if folder else store.folders.names():
            names = store.folders.list(key) if key != "custom_nodes" else []
            found += len(names)
            if names or folder or paths:
                yield f"{key}: {len(names)}"
            if paths:
                yield from (f"  searched {root}" for root in store.folders.roots(key))
            yield from (f"  {store.folders.path(key, name) if paths else name}" for name in names)
        if not found:
            yield "No model files. Put a checkpoint into models/checkpoints, or name your folders:"
            yield "  limner models --base-directory /path/to/ComfyUI"
            yield "  limner models --extra-model-paths-config extra_model_paths.yaml"
    finally:
        store.close()
