"""Where a running node's tokenizers may find their vocabularies."""

from __future__ import annotations

from limner.graph import Run
from limner.models.text.vocabulary import Vocabularies


def vocabularies(run: Run) -> Vocabularies:
    """Those beside the text encoders' folders, and those of the model hub unless the settings say `offline`."""
    hub = None if run.settings.offline else run.settings.model_hub
    return Vocabularies.beside(run.store.folders.roots("text_encoders"), hub)
