"""What routes take and answer, as values: the parts that the OpenAPI document is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
SWITCH: Schema = {"type": "boolean"}
ANY: Schema = {}
BYTES: Schema = {"type": "string", "format": "binary"}

JSON = "application/json"
FORM = "multipart/form-data"


def obj(required: str = "", /, **properties: Schema) -> Schema:
    """An object: names of required properties, separated by spaces, and what each property is."""
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": required.split()} if required else schema


def array(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def table(values: Schema) -> Schema:
    """An object of any keys."""
    return {"type": "object", "additionalProperties": values}


def nullable(schema: Schema) -> Schema:
    """That or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def either(*schemas: Schema) -> Schema:
    """One of these."""
    return {"anyOf": list(schemas)}


def words(*allowed: str) -> Schema:
    """One of these texts."""
    return {"type": "string", "enum": list(allowed)}


TEXTS = array(TEXT)
OBJECT: Schema = {"type": "object"}


@dataclass(frozen=True)
class Answer:
    """What a status means. schema: what its body is, None for an empty one. type: the media type, `*/*` for any."""

    text: str
    schema: Schema | None = None
    type: str = JSON


@dataclass(frozen=True)
class Body:
    """What a request brings. required: whether it may be left out."""

    schema: Schema
    type: str = JSON
    required: bool = True


PROBLEM = obj("error what why do", error=TEXT, what=TEXT, why=TEXT, do=TEXT)
"""How an error is told: one sentence, and its parts."""

DONE = Answer("Done.")
BAD = Answer("The request cannot be meant; the body says what is wrong.", PROBLEM)
REFUSED = Answer("Not for this asker, or outside of what requests may reach.", PROBLEM)
MISSING = Answer("There is no such thing.", ANY, "*/*")
TOLD_MISSING = Answer("There is no such thing; the body names it.", PROBLEM)
TOO_LARGE = Answer("The body is larger than --max-upload-size allows.", PROBLEM)
NO_KEY = Answer("The server needs an API key (--api-key), and the request shows none that it knows.", ANY, "*/*")


def bytes_of(text: str) -> Answer:
    """A file's bytes."""
    return Answer(text, BYTES, "*/*")


def json_of(text: str, schema: Schema) -> Answer:
    """A JSON value."""
    return Answer(text, schema)
