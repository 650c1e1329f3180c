"""The machine, the models, the front end, the logs."""

import base64
import json
import struct
from pathlib import Path

import pytest

from limner.errors import BadInput
from limner.server import LogRing, RingHandler
from limner.server.devices import describe_devices
from limner.server.frontend import find_front_end
from limner.server.middleware import cache_control
from limner.settings import Settings
from tests.server.make import Running, server
from tests.server.test_files import picture


def safetensors(path: Path, **metadata: str) -> None:
    header = json.dumps({"__metadata__": metadata} if metadata else {}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def page(folder: Path) -> Path:
    (folder / "extensions" / "core").mkdir(parents=True)
    (folder / "index.html").write_text("<html>")
    (folder / "app.js").write_text("1")
    (folder / "extensions" / "core" / "a b.js").write_text("2")
    return folder


async def test_system_stats_have_every_key(here: Running) -> None:
    _, stats = await here.get("/api/system_stats")

    wanted = "os ram_total ram_free comfyui_version required_frontend_version installed_templates_version"
    wanted += " required_templates_version python_version pytorch_version embedded_python argv"
    assert set(wanted.split()) <= stats["system"].keys()
    (device,) = stats["devices"]
    assert device.keys() == {
        *("name", "type", "index", "vram_total", "vram_free", "torch_vram_total", "torch_vram_free"),
    }


def test_without_a_gpu_the_processor_is_told() -> None:
    (device,) = describe_devices(Settings(cpu=True))

    assert (device["name"], device["type"], device["index"]) == ("cpu", "cpu", None)
    assert 0 < device["vram_free"] <= device["vram_total"]


@pytest.mark.parametrize(("said", "allocator"), [({}, "native"), ({"cuda_malloc": True}, "cudaMallocAsync")])
def test_a_gpu_is_told_with_the_allocator_that_is_used(
    said: dict[str, bool], allocator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.server.devices.nvidia_gpu", lambda _: ("NVIDIA H100", 80, 70))

    (device,) = describe_devices(Settings(**said))

    assert device["name"] == f"cuda:0 NVIDIA H100 : {allocator}"


async def test_features_are_told(here: Running) -> None:
    assert await here.get("/features") == (
        200,
        {"supports_preview_metadata": True, "max_upload_size": 104857600},
    )


async def test_node_kinds_are_told_all_or_one(here: Running) -> None:
    assert await here.get("/object_info") == (200, {"PreviewAny": {"name": "PreviewAny"}})
    assert await here.get("/object_info/PreviewAny") == (200, {"PreviewAny": {"name": "PreviewAny"}})
    assert await here.get("/object_info/Gone") == (200, {})
    assert await here.get("/node_replacements") == (200, {})


async def test_model_folders_are_listed(here: Running) -> None:
    safetensors(here.base / "models" / "loras" / "sub" / "b.safetensors")
    safetensors(here.base / "models" / "embeddings" / "style.pt")

    names = (await here.get("/models"))[1]
    assert (names[:3], len(names)) == (["checkpoints", "configs", "loras"], 20)
    assert await here.get("/models/loras") == (200, ["sub/b.safetensors"])
    assert await here.get("/embeddings") == (200, ["style"])
    assert [await here.get(f"/models/{key}") for key in ("gone", "unet")] == [(404, b"404: Not Found")] * 2
    listed = (await here.get("/experiment/models"))[1]
    assert {"configs", "custom_nodes"}.isdisjoint(entry["name"] for entry in listed)
    (info,) = (await here.get("/experiment/models/loras"))[1]
    assert info.keys() == {"name", "pathIndex", "modified", "created", "size"}


async def test_metadata_of_a_model_is_told(here: Running) -> None:
    safetensors(here.base / "models" / "loras" / "a.safetensors", x="1")
    safetensors(here.base / "models" / "loras" / "bare.safetensors")
    (here.base / "models" / "loras" / "cut.safetensors").write_bytes(b"\xff" * 8)

    assert await here.get("/view_metadata/loras?filename=a.safetensors") == (200, {"x": "1"})
    for query in ("", "?filename=bare.safetensors", "?filename=cut.safetensors", "?filename=../a.safetensors"):
        assert (await here.get(f"/view_metadata/loras{query}"))[0] in (403, 404)
    assert (await here.get("/view_metadata/gone?filename=a.safetensors"))[0] == 404


async def test_a_models_picture_is_beside_it_or_in_it(here: Running) -> None:
    loras = here.base / "models" / "loras"
    cover = base64.b64encode(picture()).decode()
    safetensors(loras / "in.safetensors", ssmd_cover_images=json.dumps([cover]))
    safetensors(loras / "none.safetensors", ssmd_cover_images="[")
    safetensors(loras / "by.safetensors")
    (loras / "by.preview.png").write_bytes(picture())

    for name, status in (("in", 200), ("by", 200), ("none", 404), ("gone", 404), ("..%2Fin", 403)):
        async with here.client.get(f"/experiment/models/preview/loras/0/{name}.safetensors") as response:
            assert response.status == status, name
    for index in ("9", "x", "-1"):
        assert (await here.get(f"/experiment/models/preview/loras/{index}/in.safetensors"))[0] == 404


async def test_the_page_is_never_kept_and_scripts_are_asked_for_again(tmp_path: Path) -> None:
    async with server(tmp_path, front_end_root=str(page(tmp_path / "web"))) as here:
        async with here.client.get("/") as response:
            assert (await response.text(), response.headers["Cache-Control"]) == ("<html>", "no-cache")
            assert (response.headers["Pragma"], response.headers["Expires"]) == ("no-cache", "0")
        async with here.client.get("/app.js") as response:
            assert response.headers["Content-Type"] == "application/javascript; charset=utf-8"
            assert response.headers["Cache-Control"] == "no-cache"
        assert await here.get("/extensions") == (200, ["/extensions/core/a%20b.js"])
        assert await here.get("/extensions/core/a%20b.js") == (200, b"2")
        assert (await here.get("/api/"))[0] == 200


@pytest.mark.parametrize("path", ["/gone.js", "/..%2fsecret", "/%2e%2e/secret", "/a%00b", "/assets/", "/api/gone"])
async def test_other_files_are_not_found(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("secret")
    async with server(tmp_path, front_end_root=str(page(tmp_path / "web"))) as here:
        assert (await here.get(path))[0] == 404


def test_a_folder_without_a_page_is_no_front_end(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"index\.html"):
        find_front_end(str(tmp_path))


def test_the_installed_front_end_is_found_without_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "comfyui_frontend_package", raising=False)

    root = find_front_end(None).root

    assert root is not None
    assert (root / "index.html").is_file()
    assert "comfyui_frontend_package" not in sys.modules


@pytest.mark.parametrize(
    ("path", "status", "kept"),
    [
        ("/a.css", 200, "no-cache"),
        ("/x/index.zh.json", 200, "no-cache"),
        ("/a.PNG", 200, "public, max-age=86400"),
        ("/a.png", 404, "public, max-age=3600"),
        ("/a.png", 302, "no-cache"),
        ("/a.png", 304, None),
        ("/queue", 200, None),
    ],
)
def test_how_long_replies_are_kept(path: str, status: int, kept: str | None) -> None:
    assert cache_control(path, status) == kept


async def test_a_wrong_method_is_told_from_a_wrong_path(here: Running) -> None:
    assert (await here.ask("DELETE", "/prompt"))[0] == 405
    assert (await here.get("/api/internal/logs"))[0] == 404


async def test_every_get_answers_head(here: Running) -> None:
    assert await here.ask("HEAD", "/queue") == (200, b"")


async def test_a_fault_of_the_server_is_told_without_a_traceback(here: Running) -> None:
    def fail(kind: str | None = None, owner: str | None = None) -> None:
        raise RuntimeError("oh")

    here.engine.object_info = fail  # type: ignore[assignment,method-assign]
    status, body = await here.get("/object_info/X")

    assert (status, body["why"]) == (500, "RuntimeError: oh")


async def test_replies_are_compressed_when_asked_to(tmp_path: Path) -> None:
    async with server(tmp_path, enable_compress_response_body=True) as here:
        async with here.client.get("/models", headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert "checkpoints" in await response.json()
        async with here.client.get("/models", headers={"Accept-Encoding": "identity"}) as response:
            assert "Content-Encoding" not in response.headers


async def test_packs_bring_templates_translations_and_subgraphs(here: Running) -> None:
    pack, off = here.base / "custom_nodes" / "pack", here.base / "custom_nodes" / "old.disabled"
    for file, text in {
        pack / "examples" / "first.json": '{"a": 1}',
        off / "examples" / "no.json": "{}",
        pack / "locales" / "de" / "main.json": '{"x": {"y": [1]}}',
        pack / "locales" / "de" / "nodeDefs.json": '{"K": {}}',
        pack / "locales" / "en" / "main.json": "broken",
        pack / "subgraphs" / "s.json": "{}",
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert await here.get("/workflow_templates") == (200, {"pack": ["first"]})
    assert await here.get("/api/workflow_templates/pack/first.json") == (200, {"a": 1})
    assert (await here.get("/api/workflow_templates/pack/..%2Flocales%2Fde%2Fmain.json"))[0] == 404
    assert await here.get("/i18n") == (200, {"de": {"x": {"y": [1]}, "nodeDefs": {"K": {}}}})
    (key,) = (await here.get("/global_subgraphs"))[1]
    assert (await here.get(f"/global_subgraphs/{key}"))[1]["data"] == "{}"
    assert await here.get("/global_subgraphs/x") == (200, None)


async def test_the_log_is_told_whole_and_in_pieces(here: Running) -> None:
    here.logs.write("one\n")
    here.logs.write("two\n")

    text = (await here.get("/internal/logs"))[1]
    raw = (await here.get("/internal/logs/raw"))[1]

    assert text.endswith(" - two\n")
    assert [entry["m"] for entry in raw["entries"]] == ["one\n", "two\n"]
    assert raw["size"].keys() == {"cols", "rows"}
    assert (await here.ask("PATCH", "/internal/logs/subscribe", json={}))[0] == 400


async def test_model_folders_places_are_told(here: Running) -> None:
    paths = (await here.get("/internal/folder_paths"))[1]

    assert paths["loras"][0] == str(here.base / "models" / "loras")


def test_the_log_keeps_the_newest() -> None:
    ring = LogRing(3)
    for i in range(5):
        ring.write(f"{i}\n")

    assert [entry["m"] for entry in ring.entries()] == ["2\n", "3\n", "4\n"]


def test_a_progress_bar_is_one_entry() -> None:
    ring = LogRing()
    ring.write("start\n")
    for i in range(3):
        ring.write(f"\r{i}%")

    assert [entry["m"] for entry in ring.entries()] == ["start\n", "\r2%"]


def test_log_records_are_lines() -> None:
    import logging

    ring = LogRing()
    RingHandler(ring).handle(logging.makeLogRecord({"msg": "hello %s", "args": ("you",)}))

    assert ring.entries()[0]["m"] == "hello you\n"


async def test_the_own_workflows_are_offered_as_templates(here: Running) -> None:
    _, (category,) = await here.get("/templates/index.json")
    names = [entry["name"] for entry in category["templates"]]

    assert "text_to_image" in names
    for entry in category["templates"]:
        assert (await here.get(f"/templates/{entry['name']}.json"))[1]["nodes"]
        async with here.client.get(f"/templates/{entry['name']}-1.{entry['mediaSubtype']}") as response:
            assert response.content_type.startswith("image/")
    assert await here.get("/templates/index_logo.json") == (200, {})
    assert (await here.get("/templates/gone.json"))[0] == 404


async def test_the_front_ends_own_folders_are_empty_before_they_exist(here: Running) -> None:
    assert await here.get("/api/userdata?dir=workflows&recurse=true") == (200, [])
    assert await here.get("/api/userdata?dir=subgraphs%2F&recurse=true") == (200, [])
    assert await here.get("/api/userdata/comfy.templates.json") == (200, [])
