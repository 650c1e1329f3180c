"""Files in and out."""

import io
import json
from pathlib import Path

import pytest
from aiohttp import FormData
from PIL import Image, PngImagePlugin

from tests.server.make import Running


def picture(colour: tuple[int, ...] = (255, 0, 0, 128), size: tuple[int, int] = (4, 3), **text: str) -> bytes:
    kept = PngImagePlugin.PngInfo()
    for key, value in text.items():
        kept.add_text(key, value)
    buffer = io.BytesIO()
    Image.new("RGBA", size, colour).save(buffer, "PNG", pnginfo=kept)
    return buffer.getvalue()


def form(data: bytes, name: str = "a.png", **fields: str) -> FormData:
    made = FormData(quote_fields=False)
    made.add_field("image", data, filename=name)
    for key, value in fields.items():
        made.add_field(key, value)
    return made


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


async def test_an_upload_is_found_by_view(here: Running) -> None:
    assert await here.post("/upload/image", data=form(picture(), subfolder="sub/dir")) == (
        200,
        {"name": "a.png", "subfolder": "sub/dir", "type": "input"},
    )
    assert await here.get("/view?filename=a.png&type=input&subfolder=sub/dir") == (200, picture())


async def test_an_equal_upload_is_kept_once_and_another_gets_a_number(here: Running) -> None:
    first = (await here.post("/upload/image", data=form(b"one")))[1]["name"]
    same = (await here.post("/upload/image", data=form(b"one")))[1]["name"]
    other = (await here.post("/upload/image", data=form(b"two")))[1]["name"]
    over = (await here.post("/upload/image", data=form(b"three", overwrite="true")))[1]["name"]

    assert [first, same, other, over] == ["a.png", "a.png", "a (1).png", "a.png"]
    assert (here.base / "input" / "a.png").read_bytes() == b"three"


@pytest.mark.parametrize(
    "made",
    [
        form(b"x", type="user"),
        form(b"x", type="/etc"),
        form(b"x", subfolder="../../out"),
        form(b"x", subfolder="/tmp"),
        form(b"x", subfolder="..\\..\\out"),
        form(b"x", name=".."),
        form(b"x", name="nul"),
        form(b"x", name="a" * 300 + ".png"),
        {"image": "no file"},
        {"other": "field"},
    ],
)
async def test_an_upload_to_nowhere_is_refused(here: Running, made: object) -> None:
    status, answer = await here.post("/upload/image", data=made)

    assert status == 400
    assert answer["what"]


async def test_an_upload_that_is_no_form_is_refused(here: Running) -> None:
    assert (await here.post("/upload/image", data=b"x"))[0] == 400
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await here.post("/upload/image", data=b"--y\r\nbroken", headers=headers))[0] == 400


async def test_folders_in_an_uploads_name_are_dropped(here: Running) -> None:
    answer = (await here.post("/upload/image", data=form(b"x", name="../../evil.png")))[1]

    assert answer["name"] == "evil.png"
    assert (here.base / "input" / "evil.png").exists()


async def test_a_mask_becomes_the_pictures_transparency_and_its_text_stays(here: Running) -> None:
    await here.post("/upload/image", data=form(picture((9, 8, 7, 255), workflow="{}"), name="o.png"))
    reference = json.dumps({"filename": "o.png", "type": "input", "subfolder": ""})

    status, answer = await here.post(
        "/upload/mask", data=form(picture((0, 0, 0, 40)), name="m.png", original_ref=reference)
    )

    assert (status, answer["name"]) == (200, "m.png")
    result = opened((here.base / "input" / "m.png").read_bytes())
    assert result.getpixel((0, 0)) == (9, 8, 7, 40)
    assert result.text == {"workflow": "{}"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("reference", "mask"),
    [
        ('{"filename": "gone.png"}', picture()),
        ("{", picture()),
        ("[]", picture()),
        ('{"filename": "../o.png", "type": "input"}', picture()),
        ('{"filename": "o.png", "type": "input"}', b"no picture"),
        ('{"filename": "o.png", "type": "input"}', picture(size=(9, 9))),
    ],
)
async def test_a_mask_of_nothing_is_refused_and_nothing_written(here: Running, reference: str, mask: bytes) -> None:
    await here.post("/upload/image", data=form(picture(), name="o.png"))

    status, _ = await here.post("/upload/mask", data=form(mask, name="m.png", original_ref=reference))

    assert status in (400, 404)
    assert not (here.base / "input" / "m.png").exists()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("filename=gone.png", 404),
        ("filename=", 400),
        ("filename=/etc/passwd", 400),
        ("filename=../secret.txt", 400),
        ("filename=a..b.png", 400),
        ("filename=secret.txt&subfolder=..", 403),
        ("filename=secret.txt&subfolder=/", 403),
        ("filename=passwd&subfolder=../../../../etc", 403),
        ("filename=%2e%2e%2fsecret.txt", 400),
        ("filename=secret.txt&type=user", 400),
        ("filename=secret.txt&type=models", 400),
        ("filename=a%00.png", 403),
        ("filename=" + "a" * 300, 403),
    ],
)
async def test_view_reaches_nothing_else(here: Running, query: str, status: int) -> None:
    (here.base / "secret.txt").write_text("secret")
    (here.base / "output").mkdir()

    assert (await here.get(f"/view?{query}"))[0] == status


async def test_a_link_out_of_the_folder_is_not_followed(
    here: Running, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.txt"
    outside.write_text("secret")
    (here.base / "output").mkdir()
    (here.base / "output" / "link.txt").symlink_to(outside)

    assert (await here.get("/view?filename=link.txt"))[0] == 403


@pytest.mark.parametrize("name", ["a.html", "a.xhtml", "a.js", "a.css", "a.xml", "a.unknown"])
async def test_files_that_could_act_in_a_page_are_sent_as_plain_bytes(here: Running, name: str) -> None:
    (here.base / "output").mkdir()
    (here.base / "output" / name).write_text("<script>")

    async with here.client.get(f"/view?filename={name}") as response:
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Disposition"].endswith(f'filename="{name}"')


async def test_a_drawing_is_sent_as_one_but_may_run_nothing(here: Running) -> None:
    (here.base / "output").mkdir()
    (here.base / "output" / "a.svg").write_text("<svg/>")

    async with here.client.get("/view?filename=a.svg") as response:
        assert response.headers["Content-Type"] == "image/svg+xml"
        assert "sandbox" in response.headers["Content-Security-Policy"]


async def test_the_folder_may_stand_in_the_name(here: Running) -> None:
    await here.post("/upload/image", data=form(b"x"))

    assert await here.get("/view?filename=a.png%20[input]&type=output") == (200, b"x")


async def test_a_part_of_a_file_may_be_asked_for(here: Running) -> None:
    await here.post("/upload/image", data=form(b"0123456789"))

    assert await here.get("/view?filename=a.png&type=input", headers={"Range": "bytes=2-4"}) == (206, b"234")


async def test_an_odd_name_is_told_in_both_forms(here: Running) -> None:
    await here.post("/upload/image", data=form(b"x", name="füchs.png"))
    (name,) = [path.name for path in (here.base / "input").iterdir()]

    async with here.client.get("/view", params={"filename": name, "type": "input"}) as response:
        assert response.status == 200
        assert response.headers["Content-Disposition"] == "filename=\"f?chs.png\"; filename*=UTF-8''f%C3%BCchs.png"


@pytest.mark.parametrize(
    ("query", "kind", "mode"),
    [("preview=webp;50", "WEBP", "RGBA"), ("preview=jpeg;90", "JPEG", "RGB"), ("preview=x", "WEBP", "RGBA")],
)
async def test_previews_are_smaller_files_of_the_picture(here: Running, query: str, kind: str, mode: str) -> None:
    await here.post("/upload/image", data=form(picture()))

    async with here.client.get(f"/view?filename=a.png&type=input&{query}") as response:
        result = opened(await response.read())
        assert (result.format, result.mode, response.content_type) == (kind, mode, f"image/{kind.lower()}")


async def test_channels_are_told_apart(here: Running) -> None:
    await here.post("/upload/image", data=form(picture((10, 20, 30, 99))))

    colours = opened((await here.get("/view?filename=a.png&type=input&channel=rgb"))[1])
    alpha = opened((await here.get("/view?filename=a.png&type=input&channel=a"))[1])

    assert (colours.mode, colours.getpixel((0, 0))) == ("RGB", (10, 20, 30))
    assert (alpha.mode, alpha.getpixel((0, 0))) == ("RGBA", (0, 0, 0, 99))


async def test_a_preview_of_what_is_no_picture_is_refused(here: Running) -> None:
    await here.post("/upload/image", data=form(b"no picture"))

    assert (await here.get("/view?filename=a.png&type=input&preview=webp"))[0] == 400


async def test_newest_files_come_first(here: Running) -> None:
    for name in ("b.png", "a.png"):
        await here.post("/upload/image", data=form(name.encode(), name=name))

    assert sorted((await here.get("/internal/files/input"))[1]) == ["a.png", "b.png"]
    assert await here.get("/internal/files/user") == (400, {"error": "Invalid directory type"})
    assert Path(here.base / "input").exists()
