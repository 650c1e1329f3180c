"""Preview Any: whatever it is, as text."""

from __future__ import annotations

import json

from limner.graph import AnyKind, Ui, node


@node(
    "PreviewAny",
    category="utils",
    title="Preview Any",
    python_module="comfy_extras.nodes_preview_any",
    output_node=True,
)
def preview_any(source: AnyKind) -> Ui:
    """Show a value as text: JSON where it can be, else as it prints itself.

    source: anything.
    """
    return Ui({"text": [as_text(source)]})


def as_text(value: object) -> str:
    """A text for people: strings as they are, numbers as they print, all else as JSON or as it prints."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, int | float):
        return str(value)
    try:
        return json.dumps(value, indent=4)
    except (TypeError, ValueError, RecursionError):
        return _printed(value)


def _printed(value: object) -> str:
    try:
        return str(value)
    except Exception:  # any class may fail at printing itself
        return "The value exists, but could not be serialized."
