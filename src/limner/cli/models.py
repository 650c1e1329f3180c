"""limner models: what model files are found, where they were looked for; and fetching tokenizers' vocabularies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from limner.errors import BadInput
from limner.settings import Settings

FETCH = "fetch-tokenizers"


def models(action: str = "list", /, *, settings: Settings, folder: str = "", paths: bool = False) -> Iterator[str]:
    """List the model files that are found, or fetch the vocabularies that text encoders' tokenizers need.

    action: list, or fetch-tokenizers: what no installed package carries, into models/tokenizers.
    folder: only this kind of model, for example checkpoints.
    paths: say where each file lies, and which folders were searched.
    """
    from limner.store import Store

    if action not in ("list", FETCH):
        raise BadInput(
            f"`limner models {action}` is no command.", do=f"Write `limner models` or `limner models {FETCH}`."
        )
    store = Store.open(settings, owned=False)
    try:
        if action == FETCH:
            yield from fetch_tokenizers(store.folders.roots("text_encoders"), settings)
            return
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


def fetch_tokenizers(roots: list[Path], settings: Settings) -> Iterator[str]:
    """Fetch every vocabulary that is pinned and not there yet. Raises BadInput when nothing may be fetched."""
    from limner.models.text.hub import fetch
    from limner.models.text.vocabulary import SOURCES, Vocabularies

    if settings.offline:
        raise BadInput("Nothing may be fetched.", why="The setting `offline` is on.", do="Leave --offline away.")
    folders = Vocabularies.beside(roots).folders
    for source in SOURCES:
        if source.installed is not None and source.installed.path() is not None:
            yield f"{source.name}: comes with the package {source.installed.package}"
        elif source.pin is not None:
            yield f"{source.name}: {fetch(source.pin, settings.model_hub, folders[0] / source.name)}"
