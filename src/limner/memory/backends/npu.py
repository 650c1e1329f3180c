"""Huawei's Ascend NPUs, where the package torch_npu is installed: it makes `torch.npu`."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch

from limner.memory.backends.caching import CachingBackend
from limner.memory.backends.protocol import Capabilities

_log = logging.getLogger(__name__)


class NpuBackend(CachingBackend):
    """Ascend devices."""

    kind = "npu"

    def count(self) -> int:
        """How many devices can be used; 0 without torch_npu, or where it does not start."""
        if not hasattr(torch, "npu") and not _imported():
            return 0
        return super().count()

    def capabilities(self, device: torch.device) -> Capabilities:
        """float16, and bfloat16 where the package says so."""
        del device
        asked = getattr(self.module, "is_bf16_supported", None)
        return Capabilities(self.kind, bf16=bool(asked is not None and asked()), fp16=True)


BACKEND = NpuBackend()


@cache
def _imported() -> bool:
    """Whether torch_npu could be imported. Its own libraries are the driver's, so it may be there and not start."""
    if find_spec("torch_npu") is None:
        return False
    try:
        import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        _log.warning("torch_npu is installed but does not start, so NPUs are not used: %s", error)
        return False
    return hasattr(torch, "npu")
