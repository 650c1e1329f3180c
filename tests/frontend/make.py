"""Makers for tests with a browser: headless Chromium on a page that the server serves."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.make import ASSETS, Live, missing

REQUIRED = "LIMNER_REQUIRE_BROWSER"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
READY = """() => window.app && window.app.graph && window.app.vueAppReady !== false
    && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 20
    && !document.getElementById('splash-loader')"""
PATIENCE = 120_000


def chromium() -> str:
    """Where Debian's Chromium is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        missing("Chromium", REQUIRED)
    return found


def front_ends() -> dict[str, tuple[str, ...]]:
    """Flags of the server by front end: the installed one, and what LIMNER_OLD_FRONT_END names (its static folder)."""
    older = os.environ.get("LIMNER_OLD_FRONT_END")
    return {"installed": (), **({"older": ("--front-end-root", older)} if older else {})}


def text_to_image() -> dict[str, Any]:
    """The workflow file that ships with Limner, with its seed fixed."""
    found: dict[str, Any] = json.loads((ASSETS / "workflows" / "text_to_image.json").read_text())
    for node in found["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][1:3] = ["fixed", 4]
    return found


@dataclass
class Page:
    """A page of the front end, and everything on it that went wrong."""

    page: Any
    live: Live
    faults: list[str] = field(default_factory=list)

    def do(self, script: str, argument: Any = None) -> Any:
        """The value of a JavaScript function called in the page."""
        return self.page.evaluate(script, argument)

    def until(self, script: str, argument: Any = None) -> Any:
        """Wait until a JavaScript function gives something true."""
        return self.page.wait_for_function(script, arg=argument, timeout=PATIENCE).json_value()

    def open_file(self, workflow: dict[str, Any], name: str = "workflow.json") -> None:
        """Open a workflow file, as if it had been dropped on the page."""
        script = "([text, name]) => app.handleFile(new File([text], name, {type: 'application/json'}))"
        self.do(script, [json.dumps(workflow), name])
        self.until("count => app.graph._nodes.length === count", len(workflow["nodes"]))

    def press_run(self) -> None:
        """Press the page's button."""
        self.page.get_by_test_id("queue-button").first.click()

    def history(self) -> dict[str, Any]:
        """The server's history."""
        return dict(ask(self.live, "/history"))


def ask(live: Live, path: str, body: Any = None) -> Any:
    """GET, or POST with a JSON body; the parsed answer, None for an empty one."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(live.url + path, data), timeout=30) as reply:
        answer = reply.read()
    return json.loads(answer) if answer else None


@contextmanager
def browser() -> Iterator[Any]:
    """A browser that reaches nothing but the test's servers."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield made
        made.close()


@contextmanager
def opened(browser: Any, live: Live) -> Iterator[Page]:
    """The front end, booted."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE)
    # The front end asks its makers for news; nothing outside may matter here.
    context.route(outside(live), lambda route: route.abort())
    page = Page(context.new_page(), live)
    watch(page)
    page.page.goto(live.url)
    page.until(READY)
    try:
        yield page
    finally:
        context.close()


def outside(live: Live) -> Callable[[str], bool]:
    return lambda url: url.startswith(("http:", "https:")) and not url.startswith(live.url)


def watch(page: Page) -> None:
    """Note script errors, and requests to the server that failed or were answered with an error."""
    own = page.live.url

    def failed(request: Any) -> None:
        # Chromium reports a reply without a body that the script does not read as aborted, though it came.
        aborted = "ERR_ABORTED" in (request.failure or "")
        if request.url.startswith(own) and not aborted:
            page.faults.append(f"{request.method} {request.url}: {request.failure}")

    def answered(response: Any) -> None:
        if response.status >= 400 and response.url.startswith(own):
            page.faults.append(f"{response.request.method} {response.url}: {response.status}")

    page.page.on("pageerror", lambda error: page.faults.append(f"script error: {error}"))
    page.page.on("requestfailed", failed)
    page.page.on("response", answered)


def starter_in(base: Path) -> None:
    """Let LIMNER_TEST_CHECKPOINT stand in for the starter checkpoint, where that is not built yet."""
    other = os.environ.get("LIMNER_TEST_CHECKPOINT")
    if other:
        folder = base / "models" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "limner-starter.safetensors").symlink_to(other)
