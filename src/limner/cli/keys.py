"""limner keys: who may use the server."""

from __future__ import annotations

import time
from collections.abc import Iterator

from limner.errors import BadInput
from limner.settings import Settings


def keys(action: str = "list", name: str = "", /, *, settings: Settings, admin: bool = False) -> Iterator[str]:
    """Make, list and remove API keys; `limner keys add ann` prints one once.

    From when there is a key, every request needs one. Jobs, history and files of one key are not shown to another.

    action: add, list or remove.
    name: whose key, in lower case; its jobs and files stay when it is removed.
    admin: a key that sees everyone's jobs and files, and the log.
    """
    from limner.store import folders_of
    from limner.store.keys import Keys

    kept = Keys(folders_of(settings)["user"])
    if action not in ("add", "list", "remove") or (not name and action != "list"):
        raise BadInput("That is no use of `limner keys`.", do="Write `limner keys add NAME`, `list` or `remove NAME`.")
    if action == "add":
        yield kept.add(name, admin=admin)
    elif action == "remove":
        kept.remove(name)
        yield f"The key {name} lets nobody in any more."
    else:
        for key in kept.all():
            made = time.strftime("%Y-%m-%d", time.localtime(key.created / 1000))
            yield f"{key.name}{'  (administrator)' if key.admin else ''}  made {made}"
