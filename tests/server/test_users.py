"""Users, settings and user data over HTTP."""

from pathlib import Path

import pytest

from tests.server.make import Running, server


async def test_settings_are_merged_and_read_back(here: Running) -> None:
    assert await here.get("/settings") == (200, {})
    assert await here.post("/settings", json={"a": 1, "b": [2]}) == (200, b"")
    assert await here.post("/api/settings/Comfy.C", data=b"null") == (200, b"")
    assert await here.get("/settings") == (200, {"a": 1, "b": [2], "Comfy.C": None})
    assert await here.get("/settings/b") == (200, [2])
    assert await here.get("/settings/unknown") == (200, None)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"NaN"])
async def test_settings_that_are_no_object_are_refused(here: Running, body: bytes) -> None:
    assert (await here.post("/settings", data=body))[0] == 400


async def test_a_file_is_written_read_moved_and_deleted(here: Running) -> None:
    assert await here.post("/userdata/workflows%2Fa.json", data=b"{}") == (200, "workflows/a.json")
    assert await here.get("/userdata/workflows%2Fa.json") == (200, {})
    assert await here.get("/userdata/workflows%252Fa.json") == (200, {})
    assert await here.post("/userdata/workflows%2Fa.json/move/workflows%2Fsub%2Fb.json") == (
        200,
        "workflows/sub/b.json",
    )
    assert (await here.get("/userdata/workflows%2Fa.json"))[0] == 404
    assert (await here.ask("DELETE", "/userdata/workflows%2Fsub%2Fb.json"))[0] == 204
    assert (await here.ask("DELETE", "/userdata/workflows%2Fsub%2Fb.json"))[0] == 404


async def test_what_is_known_of_a_file_is_told_on_request(here: Running) -> None:
    status, info = await here.post("/userdata/a.txt?full_info=true", data=b"abc")

    assert (status, info["path"], info["size"]) == (200, "a.txt", 3)
    assert {"modified", "created"} < info.keys()


async def test_a_file_is_not_overwritten_against_its_writers_will(here: Running) -> None:
    await here.post("/userdata/a.txt", data=b"old")
    await here.post("/userdata/b.txt", data=b"b")

    assert await here.post("/userdata/a.txt?overwrite=false", data=b"new") == (409, b"File already exists")
    assert await here.post("/userdata/b.txt/move/a.txt?overwrite=false") == (409, b"File already exists")
    assert await here.get("/userdata/a.txt") == (200, b"old")


async def test_folders_are_listed_in_their_forms(here: Running) -> None:
    await here.post("/userdata/w%2Fa.json", data=b"{}")
    await here.post("/userdata/w%2Fs%2Fb.json", data=b"{}")

    assert await here.get("/userdata?dir=w") == (200, ["a.json"])
    assert await here.get("/userdata?dir=w&recurse=true&split=true") == (
        200,
        [["a.json", "a.json"], ["s/b.json", "s", "b.json"]],
    )
    assert (await here.get("/userdata?dir=w&full_info=true"))[1][0]["path"] == "a.json"
    names = [(entry["type"], entry["path"]) for entry in (await here.get("/v2/userdata?path=w"))[1]]
    assert names == [("directory", "w/s"), ("file", "w/a.json"), ("file", "w/s/b.json")]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/userdata", 400, b"Directory not provided"),
        ("/userdata?dir=..", 403, b"Invalid directory"),
        ("/userdata?dir=gone", 404, b"Directory not found"),
        ("/v2/userdata?path=..", 403, b"Invalid directory"),
        ("/v2/userdata?path=gone", 404, b"Directory not found"),
        ("/v2/userdata", 200, []),
    ],
)
async def test_folders_that_cannot_be_listed(here: Running, path: str, status: int, body: object) -> None:
    assert await here.get(path) == (status, body)


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fsecret", "%2e%2e%2fsecret", "..%252Fsecret", "%2Fetc%2Fpasswd", "a%5C..%5C..%5Cb", "a%00b"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_user_data_leads_nowhere_else(here: Running, method: str, name: str) -> None:
    (here.base / "user").mkdir(exist_ok=True)
    (here.base / "user" / "secret").write_text("secret")

    assert (await here.ask(method, f"/userdata/{name}", data=b"x"))[0] == 403
    assert (here.base / "user" / "secret").read_text() == "secret"


async def test_a_file_is_not_moved_out(here: Running) -> None:
    await here.post("/userdata/a.txt", data=b"x")

    assert (await here.post("/userdata/a.txt/move/..%2Fb.txt"))[0] == 403


async def test_a_missing_style_sheet_is_an_empty_one(here: Running) -> None:
    for path in ("/user.css", "/api/userdata/user.css"):
        async with here.client.get(path) as response:
            assert (response.status, response.content_type, await response.read()) == (200, "text/css", b"")

    await here.post("/userdata/user.css", data=b"b{}")
    assert await here.get("/user.css") == (200, b"b{}")


async def test_single_user_mode_says_so(here: Running) -> None:
    assert await here.get("/users") == (200, {"storage": "server", "migrated": False})
    await here.post("/settings", json={})
    assert await here.get("/users") == (200, {"storage": "server", "migrated": True})


async def test_users_are_kept_apart(tmp_path: Path) -> None:
    async with server(tmp_path, multi_user=True) as here:
        _, one = await here.post("/users", json={"username": "Ann"})
        _, two = await here.post("/users", json={"username": "Bob"})
        await here.post("/settings", json={"a": 1}, headers={"comfy-user": one})

        assert await here.get("/settings", headers={"comfy-user": two}) == (200, {})
        assert (await here.get("/users"))[1]["users"] == {one: "Ann", two: "Bob"}
        assert await here.post("/users", json={"username": "Ann"}) == (400, {"error": "Duplicate username."})
        assert (await here.get("/settings"))[0] == 401
        assert (await here.get("/v2/userdata", headers={"comfy-user": "../x"}))[0] == 403
        assert (await here.get("/userdata?dir=w", headers={"comfy-user": "nobody"}))[0] == 403
