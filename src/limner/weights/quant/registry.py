"""Which layouts there are, and which function does an operation of torch's on which of them.

Layouts are the `LAYOUTS` of the files of a folder, and what is registered at run time. Operations are looked up by
layout along its classes, so that what is registered for `Layout` holds for all that have nothing of their own.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from threading import RLock
from typing import Any

from limner.errors import BadInput, NotFound
from limner.weights.quant import layouts as folder
from limner.weights.quant.layout import Layout

Operation = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""(operation, args, kwargs) → its result, or NotImplemented to leave it to the next that may know."""


class Registry(Mapping[str, Layout]):
    """Layouts by name, and operations. Thread-safe."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._layouts: dict[str, Layout] = {}
        self._others: dict[str, str] = {}
        self._shown: dict[str, str] = {}
        self._generic: dict[Any, Operation] = {}
        self._special: dict[tuple[Any, object], Operation] = {}
        self._found: dict[tuple[Any, Layout], tuple[Operation, ...]] = {}
        self._read = False

    def __getitem__(self, name: str) -> Layout:
        known = self._known()
        return known[self._others.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._known()))

    def __len__(self) -> int:
        return len(self._known())

    def find(self, layout: str | Layout) -> Layout:
        """The layout of a name, or itself. Raises NotFound with the nearest names."""
        if isinstance(layout, Layout):
            return layout
        try:
            return self[layout]
        except KeyError:
            near = difflib.get_close_matches(str(layout), [*self, *self._others], 3, 0.4)
            raise NotFound(
                f"There is no quantization layout {layout!r}.",
                why="The file or pack may want one that a newer version, or another pack, brings.",
                do=f"Near to it: {', '.join(near)}." if near else f"Known are {', '.join(self)}.",
            ) from None

    def register(self, layout: Layout, *other_names: str, replace: bool = False) -> Layout:
        """One more layout, with other names that it goes by. Raises BadInput for a name that is taken."""
        with self._lock:
            known = self._known()
            for name in (layout.name, *other_names):
                taken = known.get(self._others.get(name, name))
                if taken is not None and taken is not layout and not replace:
                    raise BadInput(f"A quantization layout {name!r} is there already.", do="Choose another name.")
            self._layouts[layout.name] = layout
            self._others |= {name: layout.name for name in other_names if name != layout.name}
            for operation, owner in tuple(self._special):  # what was registered for a name that was to come
                if owner in (layout.name, *other_names):
                    self._special[operation, layout] = self._special.pop((operation, owner))
                    self._found.clear()
        return layout

    def unregister(self, name: str) -> None:
        """Forget a layout that was registered, its other names and its operations."""
        with self._lock:
            layout = self._layouts.pop(name)
            self._others = {other: main for other, main in self._others.items() if main != name}
            self._shown.pop(name, None)
            self._special = {key: one for key, one in self._special.items() if key[1] not in (layout, name)}
            self._found.clear()

    def unname(self, name: str) -> None:
        """Forget another name of a layout."""
        with self._lock:
            self._others.pop(name, None)

    def show_as(self, name: str, shown: str) -> None:
        """Another name by which a layout is found, and which its tensors give as their `layout_type`."""
        with self._lock:
            self.register(self.find(name), shown)
            self._shown[self.find(name).name] = shown

    def shown(self, layout: Layout) -> str:
        """The name that tensors give as their `layout_type`."""
        return self._shown.get(layout.name, layout.name)

    def on_all(self, *operations: Any) -> Callable[[Operation], Operation]:
        """Decorator: this does the operations, whatever the layout."""

        def keep(function: Operation) -> Operation:
            with self._lock:
                self._generic |= dict.fromkeys(operations, function)
                self._found.clear()
            return function

        return keep

    def on(self, layout: str | Layout | type[Layout], *operations: Any) -> Callable[[Operation], Operation]:
        """Decorator: this does the operations on a layout, or on those of a class that have nothing of their own.

        A name may be registered afterwards.
        """
        owner = self._owner(layout)

        def keep(function: Operation) -> Operation:
            with self._lock:
                self._special |= dict.fromkeys(((operation, owner) for operation in operations), function)
                self._found.clear()
            return function

        return keep

    def off(self, layout: str | Layout | type[Layout] | None, *operations: Any) -> None:
        """Forget what `on` registered, or for None `on_all`; what others registered holds again."""
        owner = self._owner(layout)
        with self._lock:
            for operation in operations:
                if owner is None:
                    self._generic.pop(operation, None)
                self._special.pop((operation, owner), None)
            self._found.clear()

    def able(self, operation: Any, layout: Layout) -> tuple[Operation, ...]:
        """What does an operation on a layout, in the order in which they are asked: what is registered for all, the
        layout's own, those of its classes. This is asked at each use of a weight, so that it is remembered.
        """
        found = self._found.get((operation, layout))
        if found is None:
            with self._lock:
                keys = ((operation, owner) for owner in (layout, *type(layout).__mro__))
                several = (self._generic.get(operation), *map(self._special.get, keys))
                found = self._found[operation, layout] = tuple(one for one in several if one is not None)
        return found

    def own(self, operation: Any, layout: Layout) -> Operation | None:
        """What was registered for just this layout."""
        return self._special.get((operation, layout))

    def _owner(self, layout: str | Layout | type[Layout] | None) -> object:
        """What an operation is registered for: a name stands for its layout, or for one that is to come."""
        return self.get(layout, layout) if isinstance(layout, str) else layout

    def _known(self) -> dict[str, Layout]:
        with self._lock:
            if not self._read:
                self._read = True
                for module in pkgutil.iter_modules(folder.__path__):
                    for layout in import_module(f"{folder.__name__}.{module.name}").LAYOUTS:
                        self._layouts.setdefault(layout.name, layout)
            return self._layouts


REGISTRY = Registry()
