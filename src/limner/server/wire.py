"""Events as frames: text frames `{"type", "data"}`, and binary ones for previews."""

from __future__ import annotations

from struct import pack
from typing import Any

from limner.engine.events import (
    Event,
    Executing,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionSuccess,
    NodeText,
    Preview,
    Progress,
    ProgressState,
    StatusChanged,
)
from limner.server.outbox import Message, binary_frame, text_frame
from limner.server.replies import dumps

__all__ = ["FOR_ALL", "Preview", "Progress", "encode", "is_end", "preview_plain", "preview_with_metadata", "text"]

FOR_ALL = (StatusChanged, Progress, ProgressState, Preview, NodeText, ExecutionInterrupted)
"""Events that everyone hears when their prompt names no client; the others are then heard by nobody."""

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4
FORMATS = {"image/jpeg": 1, "image/png": 2}


def text(kind: str, data: Any) -> Message:
    """The text frame of a message."""
    return Message(text_frame(dumps({"type": kind, "data": data})))


def encode(event: Event) -> Message:
    """The frame of an event, text for most. States of progress are superseded by newer ones; nothing else is."""
    if isinstance(event, NodeText):
        node = event.node.encode()
        return Message(binary_frame(pack("!II", TEXT, len(node)) + node + event.text.encode("utf-8", "replace")))
    frame = text_frame(dumps({"type": event.type, "data": event.data()}))
    if isinstance(event, ProgressState):
        return Message(frame, (event.type, event.prompt_id))
    if isinstance(event, Progress):
        return Message(frame, (event.type, event.prompt_id, event.node))
    return Message(frame, lasting=is_end(event))


def is_end(event: Event) -> bool:
    """Whether the event tells that its prompt is over; an error without a time is only a blocked branch."""
    if isinstance(event, ExecutionError):
        return event.timestamp is not None
    if isinstance(event, Executing):
        return event.node is None
    return isinstance(event, (ExecutionSuccess, ExecutionInterrupted))


def preview_plain(event: Preview) -> Message:
    """The frame for any client: event id 1, the picture's format, the picture."""
    head = pack("!II", PREVIEW_IMAGE, FORMATS[event.image_type])
    return Message(binary_frame(head + event.image), _superseding(event))


def preview_with_metadata(event: Preview) -> Message:
    """The frame for clients that read metadata: event id 4, the length of the JSON, the JSON, the picture."""
    about = dumps(event.data())
    head = pack("!II", PREVIEW_IMAGE_WITH_METADATA, len(about))
    return Message(binary_frame(head + about + event.image), _superseding(event))


def _superseding(event: Preview) -> tuple[str, str, str] | None:
    """A newer preview of a step takes the place of an older one; a PNG is a result, and none is left out."""
    return None if event.image_type == "image/png" else (event.type, event.prompt_id, event.node)
