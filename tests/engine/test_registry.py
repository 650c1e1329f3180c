"""The description cache: nothing is imported for schemas, and a stale entry is noticed."""

import json
import subprocess
import sys

from limner.engine import NodeRegistry
from limner.engine.registry import source_hash
from limner.graph import collect
from limner.nodes.describe import CACHE, build, dump
from tests.engine import nodes
from tests.engine.make import bench, registry


def test_the_shipped_cache_is_fresh():
    assert dump(build()) == CACHE.read_text(), "run `make descriptions`"


def test_a_schema_survives_the_cache():
    for schema in collect(nodes):
        assert type(schema).from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_importing_and_describing_needs_no_torch():
    code = (
        "import sys; from limner.engine import Engine, NodeRegistry; r = NodeRegistry.open();"
        "from limner.graph import describe; [describe(r.get(k)) for k in r.kinds()];"
        "print([m for m in ('torch', 'PIL', 'limner.nodes.text') if m in sys.modules], len(r.kinds()) > 50)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[] True"


TOPIC = """
from limner.graph import node

@node("{kind}", category="test", title="Made")
def made(text: str) -> str:
    return text
"""


def package(folder, kind="Made"):
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "topic.py").write_text(TOPIC.format(kind=kind))


def test_a_module_that_is_not_described_is_imported(tmp_path, monkeypatch):
    package(tmp_path / "fresh_nodes_a")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert NodeRegistry.open(tmp_path / "fresh_nodes_a", "fresh_nodes_a").kinds() == ["Made"]


def test_a_described_module_is_not_imported(tmp_path, monkeypatch):
    folder = tmp_path / "fresh_nodes_b"
    package(folder)
    monkeypatch.syspath_prepend(str(tmp_path))
    cache = folder / "descriptions.json"
    cache.write_text(dump(build(folder, "fresh_nodes_b")))
    (folder / "topic.py").write_text("raise RuntimeError")
    text = json.loads(cache.read_text())
    text["topic.py"]["hash"] = source_hash(folder / "topic.py")
    cache.write_text(json.dumps(text))
    assert NodeRegistry.open(folder, "fresh_nodes_b").kinds() == ["Made"]


def test_a_module_that_breaks_is_left_out_and_named(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "fresh_nodes_c"
    package(folder)
    (folder / "broken.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert NodeRegistry.open(folder, "fresh_nodes_c").kinds() == ["Made"]
    assert "broken" in caplog.text


def test_the_first_of_a_name_wins(caplog):
    found = registry()
    first = found.get("Say")
    assert not found.add(first)
    assert found.get("Say") is first
    assert "Say" in caplog.text


async def test_the_bytes_of_object_info_are_its_json(tmp_path):
    async with bench(tmp_path, started=False) as b:
        for _ in range(2):
            assert json.loads(b.engine.object_info_bytes()) == b.engine.object_info()
        assert list(b.engine.object_info("Say")) == ["Say"]
        assert b.engine.object_info("Gone") == {}


async def test_file_lists_are_as_new_as_the_request(tmp_path):
    from typing import Annotated

    from limner.graph import FileIn, Folder, node

    @node("Pick", category="test", title="Pick", output_node=True)
    def pick(model: Annotated[str, Folder("loras")], image: Annotated[str, FileIn()]) -> None:
        """Nothing."""

    async with bench(tmp_path, started=False) as b:
        b.engine.registry.add(pick.schema)
        lists = lambda: b.engine.object_info("Pick")["Pick"]["input"]["required"]  # noqa: E731
        assert lists() == {"model": [[]], "image": [[]]}
        for path in ("models/loras/fox.safetensors", "input/a.png", "input/a.txt"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        assert lists() == {"model": [["fox.safetensors"]], "image": [["a.png"]]}
        assert b'"fox.safetensors"' in b.engine.object_info_bytes()
        body = {"prompt": {"1": {"class_type": "Pick", "inputs": {"model": "fox.safetensors", "image": "a.txt"}}}}
        assert await b.engine.submit(body)  # any file that exists may be named
