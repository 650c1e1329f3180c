"""The page of a server that asks for API keys."""

from pathlib import Path
from typing import Any

from tests.refusals.server import live_server


def test_a_person_gives_the_key_once_and_the_page_works(chrome: Any, tmp_path: Path) -> None:
    with live_server(tmp_path, api_key="k3y", cpu=True) as live:
        context = chrome.new_context()
        context.set_default_timeout(60_000)
        own = f"http://127.0.0.1:{live.port}"
        context.route(lambda url: url.startswith("http") and not url.startswith(own), lambda route: route.abort())
        page = context.new_page()
        faults: list[str] = []
        page.on("response", lambda one: faults.append(f"{one.status} {one.url}") if one.status >= 400 else None)
        page.goto(own)
        page.fill("input[name=api_key]", "k3y")
        with page.expect_websocket() as socket:
            page.click("button")
            page.wait_for_selector("canvas")
        assert socket.value.url.endswith("/ws") or "/ws?" in socket.value.url
        assert page.evaluate("fetch('/api/queue').then(reply => reply.status)") == 200
        assert "k3y" not in page.evaluate("document.cookie"), "no script reads the key"
        page.reload()
        page.wait_for_selector("canvas")
        assert faults == [f"401 {own}/"], "the form itself, and nothing after it"
        context.close()
