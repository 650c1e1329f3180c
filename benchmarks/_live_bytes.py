"""How many bytes of tensors are alive at the worst moment of a computation, counted storage by storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Within the block, `peak` is the most bytes that storages made in it had together after any operation.

    Views count nothing, since they share their storage. `ignored`: tensors that were there before (inputs, weights).
    What an operation takes and gives back inside itself is not seen: workspaces of convolutions, of attention.
    """

    def __init__(self, ignored: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._ignored = {tensor.untyped_storage()._cdata for tensor in ignored}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self.at: str = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        alive = self.bytes()
        if alive > self.peak:
            self.peak, self.at = alive, str(func)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._ignored:
            self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def bytes(self) -> int:
        """Bytes of what is alive now."""
        gone = [key for key, (reference, _) in self._alive.items() if reference.expired()]
        for key in gone:
            del self._alive[key]
        return sum(size for _, size in self._alive.values())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._alive.clear()


def peak_of(function: Callable[..., Any], *arguments: Any, module: torch.nn.Module | None = None, **named: Any) -> int:
    """The peak of one call, in bytes: what it makes, without its arguments and the module's weights."""
    tensors = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, Tensor)]
    weights = [] if module is None else [*module.parameters(), *module.buffers()]
    with torch.inference_mode(), LiveBytes([*tensors, *weights]) as live:
        function(*arguments, **named)
    return live.peak
