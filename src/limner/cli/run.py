"""limner run: one workflow, no server; the files it writes are printed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from limner.cli.assemble import Parts, assembled
from limner.engine import PromptRejected
from limner.engine.events import Event, Executing, Progress
from limner.errors import BadInput, LimnerError
from limner.graph.convert import convert_workflow, is_ui_workflow, unwrap
from limner.settings import Settings

SHOWN_ERRORS = 20


def run(workflow: Path, /, *, settings: Settings, set: tuple[str, ...] = (), output: str = "") -> Iterator[str]:  # noqa: A002
    """Run one workflow without a server and print the files it writes.

    workflow: a JSON file, as the front end saves it or in API format.
    set: `node.input=value`, as often as needed; node is an id or a title, value is JSON or else text.
    output: the folder for results, in place of the output folder.
    """
    if output:
        settings = replace(settings, output_directory=output)
    with assembled(settings, owned=False) as parts:
        parts.compat.packs.load()
        prompt, ui = read_workflow(workflow, parts)
        for change in set:
            apply_change(prompt, change)
        yield from execute(parts, prompt, ui)


def read_workflow(file: Path, parts: Parts) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The API prompt of a workflow file, and the UI workflow if it is one. Raises BadInput when it is neither."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadInput(f"{file} cannot be read as a workflow.", why=str(error), do="Give a JSON file.") from error
    data = unwrap(data)
    if is_ui_workflow(data):
        return convert_workflow(data, parts.registry), data
    return data, None


def apply_change(prompt: dict[str, Any], change: str) -> None:
    """Set one input: `node.input=value`. Raises BadInput when there is no such node or the text is no change."""
    target, equals, text = change.partition("=")
    name, dot, field = target.rpartition(".")
    if not equals or not dot or not field:
        raise BadInput(f"--set {change} is not understood.", do="Write node.input=value, for example 3.seed=7.")
    found = [name] if name in prompt else _by_title(prompt, name)
    if not found:
        raise BadInput(f"--set {change}: there is no node {name!r}.", do=f"Nodes are {_listing(prompt)}.")
    if len(found) > 1:
        raise BadInput(f"--set {change}: {len(found)} nodes are called {name!r}.", do=f"Use an id: {', '.join(found)}.")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    prompt[found[0]].setdefault("inputs", {})[field] = value


def _by_title(prompt: Mapping[str, Any], title: str) -> list[str]:
    named = [node for node, call in prompt.items() if (call.get("_meta") or {}).get("title") == title]
    return named or [node for node, call in prompt.items() if call["class_type"] == title]


def _listing(prompt: Mapping[str, Any]) -> str:
    return ", ".join(f"{node} ({call['class_type']})" for node, call in list(prompt.items())[:SHOWN_ERRORS])


def execute(parts: Parts, prompt: dict[str, Any], ui: dict[str, Any] | None = None) -> Iterator[str]:
    """Run a prompt in this process and yield the path of each file it wrote, and each text it showed.

    Raises LimnerError with what the prompt or the node got wrong.
    """
    extra = {"extra_pnginfo": {"workflow": ui}} if ui is not None else {}
    entry = asyncio.run(_to_the_end(parts, {"prompt": prompt, "extra_data": extra}))
    messages = entry["status"]["messages"] if entry else []
    for kind, data in messages:
        if kind == "execution_error":
            text = data["exception_message"].strip()
            raise LimnerError(f"Node {data['node_id']} ({data['node_type']}): {text}")
    for shown in (entry or {}).get("outputs", {}).values():
        for items in shown.values():
            yield from (line for item in items if (line := _result(parts, item)))


def _result(parts: Parts, item: Any) -> str:
    if isinstance(item, Mapping) and "filename" in item:
        return str(parts.store.files.resolve(item.get("type", "output"), item.get("subfolder", ""), item["filename"]))
    return item if isinstance(item, str) else ""


async def _to_the_end(parts: Parts, body: dict[str, Any]) -> dict[str, Any] | None:
    with tqdm(total=1, unit="step", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(event: Event) -> None:
            if isinstance(event, Executing) and event.node is not None:
                bar.set_description(prompt[event.node]["class_type"] if event.node in prompt else event.node)
            elif isinstance(event, Progress):
                bar.total = event.max
                bar.update(event.value - bar.n)

        prompt = body["prompt"]
        unsubscribe = parts.engine.events.subscribe(show)
        await parts.engine.start()
        try:
            accepted = await parts.engine.submit({**body, "client_id": "run"})
            return await parts.engine.wait(accepted.prompt_id)
        except PromptRejected as rejected:
            raise BadInput(explain(rejected.error, rejected.node_errors)) from rejected
        finally:
            unsubscribe()
            await parts.engine.close()


def explain(error: Mapping[str, Any], node_errors: Mapping[str, Any]) -> str:
    """The body of a refusal as lines for a terminal."""
    lines = [f"{error['message']}. {error['details'] if not node_errors else ''}".strip()]
    for node, found in node_errors.items():
        lines += [
            f"  node {node} ({found['class_type']}): {one['message']}: {one['details']}" for one in found["errors"]
        ]
    more = len(lines) - SHOWN_ERRORS
    return "\n".join(lines[:SHOWN_ERRORS] + ([f"  and {more} more"] if more > 0 else []))
