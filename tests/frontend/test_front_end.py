"""ComfyUI's own front end in a browser, on our server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.clients.make import Live, has_starter
from tests.frontend.make import READY, Page, ask, text_to_image

pytestmark = pytest.mark.xdist_group("browser")  # one browser, one server, in one worker
needs_starter = pytest.mark.skipif(
    not (has_starter() or os.environ.get("LIMNER_TEST_CHECKPOINT")),
    reason="the starter checkpoint is not in the package",
)
SHOWN = """() => {
    const node = app.graph._nodes.find(node => node.type === 'SaveImage');
    const picture = node?.imgs?.[0];
    return picture?.complete && picture.naturalWidth ? [picture.naturalWidth, picture.naturalHeight, picture.src] : null;
}"""
VALUES = """() => app.graph._nodes.map(node => [node.type,
    (node.widgets ?? []).filter(one => !one.name.startsWith('$$')).map(one => String(one.value))]).sort()"""
IN_THE_PANEL = """() => [...document.querySelectorAll('img')].some(
    picture => picture.src.includes('/view?filename=limner_') && picture.naturalWidth === 128)"""


@pytest.fixture(autouse=True)
def greeted(limner: Live, request: pytest.FixtureRequest) -> None:
    """The greeting of a new user covers the page; only the first test wants to see it."""
    if "boot" not in request.node.name:
        ask(limner, "/settings", {"Comfy.TutorialCompleted": True})


def test_the_page_boots_without_a_fault_and_knows_every_node(page: Page, limner: Live) -> None:
    page.page.wait_for_timeout(2000)

    known = set(page.do("() => Object.keys(LiteGraph.registered_node_types)"))
    assert set(ask(limner, "/object_info")) <= known
    assert page.faults == []


def test_the_front_ends_own_graph_loads(page: Page) -> None:
    page.do("() => app.loadGraphData()")
    page.until("() => app.graph._nodes.length > 0")

    assert [fault for fault in page.faults if "script error" in fault] == []


@needs_starter
def test_a_workflow_file_runs_its_picture_shows_and_a_reload_restores_it(page: Page) -> None:
    page.open_file(text_to_image())
    page.press_run()

    width, height, source = page.until(SHOWN)
    assert (width, height) == (128, 128)
    assert source.startswith(page.live.url)
    (entry,) = page.history().values()
    assert entry["status"]["status_str"] == "success"

    before = page.do(VALUES)
    page.page.wait_for_timeout(1500)  # the page keeps its draft a moment after the last change
    page.page.reload()
    page.until("count => window.app?.graph?._nodes?.length === count", len(before))
    assert page.do(VALUES) == before
    page.until(READY)
    for key in "qa":  # one of the two opens the panel of results, by the front end's age
        page.page.keyboard.press(key)
    page.until(IN_THE_PANEL)
    assert page.faults == []


@needs_starter
def test_a_run_is_interrupted(page: Page) -> None:
    workflow = text_to_image()
    for node in workflow["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][0:3] = [12345, "fixed", 5000]
    page.open_file(workflow)
    done = len(page.history())
    page.do("""() => {
        window.heard = [];
        for (const kind of ['progress', 'execution_interrupted', 'execution_error'])
            app.api.addEventListener(kind, () => window.heard.push(kind));
    }""")
    page.press_run()
    page.until("() => window.heard.includes('progress')")

    page.do("() => app.api.interrupt(null)")

    page.until("() => window.heard.includes('execution_interrupted')")
    assert "execution_error" not in page.do("() => window.heard")
    page.until("async count => Object.keys(await (await fetch('/history')).json()).length > count", done)
    status = list(page.history().values())[-1]["status"]
    assert (status["status_str"], status["completed"]) == ("error", False)
    assert "execution_interrupted" in [event for event, _ in status["messages"]]
    assert page.faults == []


def test_an_upload_is_chosen_and_loaded(page: Page, limner: Live, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "red.png")
    # With nothing to choose from, the older front end shows the picture "undefined".
    (limner.base / "input").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(limner.base / "input" / "first.png")
    page.page.reload()
    page.until(READY)
    page.do("""() => {
        app.graph.clear();
        const [load, save] = ['LoadImage', 'SaveImage'].map(kind => LiteGraph.createNode(kind));
        for (const node of [load, save]) app.graph.add(node);
        save.pos = [500, 100];
        load.connect(0, save, 0);
    }""")
    with page.page.expect_file_chooser() as chooser:
        page.do(
            "() => app.graph._nodes.find(n => n.type === 'LoadImage').widgets.find(w => w.name === 'upload').callback()"
        )
    chooser.value.set_files(tmp_path / "red.png")
    page.until(
        "() => app.graph._nodes.find(n => n.type === 'LoadImage').widgets.find(w => w.name === 'image').value === 'red.png'"
    )
    page.until("async () => (await (await fetch('/internal/files/input')).json()).includes('red.png')")

    page.press_run()

    width, height, _ = page.until(SHOWN)
    assert (width, height) == (40, 30)
    assert page.faults == []
