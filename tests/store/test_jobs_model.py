"""Any order of changes leaves the store as a plain dictionary would be."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.make import jobs, record

_NAMES = st.sampled_from("abcd")
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _NAMES, st.integers(-3, 3)),
        st.tuples(st.sampled_from(["start", "finish", "remove", "delete"]), _NAMES),
        st.tuples(st.sampled_from(["clear", "reopen", "read"])),
    ),
    max_size=30,
)


class Model:
    """What the store should hold: open jobs as (name, number), and the history by name."""

    def __init__(self):
        self.open: list[tuple[str, int]] = []
        self.running: dict[str, tuple[str, int]] = {}
        self.history: dict[str, int] = {}

    def first(self, name):
        return min((job for job in self.open if job[0] == name), key=lambda job: job[1], default=None)

    def add(self, name, number):
        self.open.append((name, number))

    def start(self, name):
        if (job := self.first(name)) and name not in self.running:
            self.running[name] = job

    def finish(self, name):
        if job := self.running.pop(name, None) or self.first(name):
            self.open.remove(job)
            self.history.pop(name, None)
            self.history[name] = job[1]

    def remove(self, name):
        if name not in self.running and (job := self.first(name)):
            self.open.remove(job)

    def delete(self, name):
        self.history.pop(name, None)

    def clear(self):
        self.history.clear()


@given(_STEPS)
@settings(max_examples=40, deadline=None)
def test_any_order_of_changes_leaves_what_a_dictionary_would_hold(steps):
    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        store = jobs(Path(folder))
        try:
            for verb, *arguments in [*steps, ("read",), ("reopen",), ("read",)]:
                if verb == "read":
                    assert [(name, entry["prompt"][0]) for name, entry in store.history().items()] == list(
                        model.history.items()
                    )
                elif verb == "reopen":
                    store.close()
                    store = jobs(Path(folder))
                    model.running.clear()
                    waiting = [(found.prompt_id, found.number) for found in store.load_unfinished()]
                    assert waiting == sorted(model.open, key=lambda job: job[1])
                elif verb == "add":
                    store.add(record(*arguments))
                    model.add(*arguments)
                else:
                    _apply(store, verb, arguments)
                    getattr(model, verb)(*arguments)
        finally:
            store.close()


def _apply(store, verb, arguments):
    if verb == "finish":
        store.finish(*arguments, "completed")
    elif verb in {"remove", "delete"}:
        getattr(store, verb)(arguments)
    else:
        getattr(store, verb)(*arguments)
