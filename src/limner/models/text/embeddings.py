"""Textual inversion: the vectors of an `embedding:NAME` file. Gal et al. 2022, "An image is worth one word"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def vectors_of(contents: object, key: str) -> Tensor | None:
    """The vectors that an embedding file holds for one text encoder: (D,) or (count, D); None where it holds none.

    contents: what the file holds: tensors by name, with those of several encoders under their keys; or A1111's
              layout with `string_to_param`; or a list of such.
    key:      the encoder's key, such as "clip_l"; a file without it is for whichever encoder it fits, its first tensor.
    """
    if isinstance(contents, list):
        found = (vectors_of(part, key) for part in contents)
        return next((vectors for vectors in found if vectors is not None), None)
    if not isinstance(contents, Mapping):
        return contents if isinstance(contents, Tensor) else None
    tensors: Mapping[str, Any] = contents.get("string_to_param", contents)
    if isinstance(tensors.get(key), Tensor):
        return tensors[key]
    return next((tensor for tensor in tensors.values() if isinstance(tensor, Tensor)), None)
