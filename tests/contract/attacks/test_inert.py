"""Files that users bring are shown or saved, never run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from limner.server.inert import disposition, safe_type
from tests.refusals.server import Live, live_server

ACTIVE = (
    *(
        "a.html",
        "a.htm",
        "a.HTML",
        "a.xhtml",
        "a.xht",
        "a.shtml",
        "a.js",
        "a.mjs",
        "a.xml",
        "a.xsl",
        "a.xslt",
        "a.svgz",
    ),
    *("a.mht", "a.mhtml", "a.eml", "a.css", "a.swf", "a.hta", "a.wasm", "a.rdf", "a.atom", "a.rss", "a.mathml"),
    *("a.html.gz", "a.htc", "a.vbs", "a.unknown", "a", "a.wsdl", "a.xpdl", "a.dtd", "a.vml", "a.appcache", "a.xul"),
)
RUNS = ("html", "xml", "script", "css", "multipart", "rfc822", "flash", "wasm")
SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = tmp_path_factory.mktemp("inert")
    for folder in (base / "output", base / "user" / "default"):
        folder.mkdir(parents=True)
        for name in (*ACTIVE, "a.svg", "a.txt", "a.json", "a.png"):
            (folder / name).write_text("<script>alert(1)</script>")
    with live_server(base) as running:
        yield running


def both(name: str) -> tuple[str, str]:
    return f"/view?filename={name}", f"/userdata/{name}"


@pytest.mark.parametrize("name", ACTIVE)
def test_a_file_of_an_active_type_is_bytes_to_be_saved(live: Live, name: str) -> None:
    for path in both(name):
        headers = live.get(path).headers
        kind = headers["Content-Type"].lower()
        if name == "a.svgz":
            assert "sandbox" in headers["Content-Security-Policy"]
            continue
        if name == "a.css" and path.startswith("/userdata"):
            continue  # the front end links to its user's style sheet, which a browser runs as no document
        assert not any(word in kind for word in RUNS), kind
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in headers["Content-Security-Policy"] or kind == "text/plain"


@pytest.mark.parametrize("path", both("a.svg"))
def test_a_drawing_runs_nothing_and_loads_nothing(live: Live, path: str) -> None:
    headers = live.get(path).headers

    assert headers["Content-Type"] == "image/svg+xml"
    assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert "script" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "image/png"), ("a.txt", "text/plain"), ("a.json", "application/json")]
)
def test_harmless_files_keep_their_types_and_are_not_sniffed(live: Live, name: str, kind: str) -> None:
    for path in both(name):
        headers = live.get(path).headers
        assert (headers["Content-Type"].partition(";")[0], headers["X-Content-Type-Options"]) == (kind, "nosniff")


@pytest.mark.parametrize("name", ["x.png", "clip.mp4", "sound.flac", "mesh.glb", "w.json", "note.md", "font.woff2"])
def test_pictures_sounds_and_meshes_keep_their_types(name: str) -> None:
    assert safe_type(name) != "text/html"
    assert "script" not in safe_type(name)


@pytest.mark.parametrize(
    "name",
    [
        'a"; filename="evil.exe',
        "a\r\nSet-Cookie: x=1",
        "a\nb",
        "a\0b",
        "a\\b",
        "ü☃.png",
        "a\u2028b",
        "\ud800.png",
        "a%0d%0ab.png",
        "a;b=c",
        "\x7f",
    ],
)
def test_a_name_cannot_end_its_header(name: str) -> None:
    header = disposition(name)

    assert all(" " <= letter <= "~" for letter in header)
    plain = header.removeprefix('filename="').partition('"')[0]
    assert "\\" not in plain
    assert header.count('"') == 2


def test_a_file_whose_name_holds_a_quote_is_served_with_one_name(live: Live) -> None:
    (live.base / "output" / 'q";x="y.png').write_bytes(b"x")
    reply = live.get("/view?filename=q%22;x=%22y.png")

    assert reply.status == 200
    assert reply.headers["Content-Disposition"].startswith('filename="q_;x=_y.png"')


def test_an_extension_of_a_picture_hides_no_page(live: Live, tmp_path: Path) -> None:
    headers = live.get("/view?filename=a.png").headers

    assert (headers["Content-Type"], headers["X-Content-Type-Options"]) == ("image/png", "nosniff")
