from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from limner.errors import BadInput, NotFound
from limner.store import media


def png(mode="RGBA", size=(4, 2), colour=(10, 20, 30, 40), **more):
    buffer = io.BytesIO()
    Image.new(mode, size, colour[: len(mode)] if len(mode) > 1 else colour[0]).save(buffer, "PNG", **more)
    return buffer.getvalue()


def reread(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(("shape", "mode"), [((2, 4), "L"), ((2, 4, 1), "L"), ((2, 4, 3), "RGB"), ((2, 4, 4), "RGBA")])
def test_arrays_become_pngs_with_their_texts(shape, mode):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    texts = media.text_chunks({"1": {"class_type": "Fox ü"}}, {"workflow": {"id": 1}, "more": None})
    picture = reread(media.encode_png(pixels, texts))
    assert (picture.mode, picture.size) == (mode, (4, 2))
    assert np.array_equal(np.asarray(picture).reshape(shape), pixels)
    assert picture.text == {"prompt": '{"1": {"class_type": "Fox \\u00fc"}}', "workflow": '{"id": 1}', "more": "null"}
    assert media.read_texts(media.encode_png(pixels, texts)) == texts


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3)), np.zeros((1, 2, 2, 3), np.uint8)]
)
def test_other_arrays_are_refused(pixels):
    with pytest.raises(BadInput):
        media.encode_png(pixels)


def test_a_prompt_of_ten_thousand_nodes_is_written_and_read():
    text = "x" * 5_000_000
    assert media.read_texts(media.encode_png(np.zeros((1, 1), np.uint8), {"prompt": text})) == {"prompt": text}


def test_a_mask_gives_its_alpha_and_the_original_keeps_its_texts():
    original = media.encode_png(np.full((2, 4, 3), 9, np.uint8), {"workflow": "{}"})
    combined = reread(media.combine_mask(original, png(colour=(1, 2, 3, 77))))
    assert combined.getpixel((0, 0)) == (9, 9, 9, 77)
    assert combined.text == {"workflow": "{}"}


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(BadInput, match="one size"):
        media.combine_mask(png("RGB", (8, 8)), png(size=(2, 2)))


@pytest.mark.parametrize(
    ("form", "channel", "kind", "mode"),
    [
        ("webp;90", "rgba", "webp", "RGBA"),
        ("jpeg", "rgb", "jpeg", "RGB"),
        ("jpeg;50", "rgba", "webp", "RGBA"),
        ("webp", "rgb", "webp", "RGB"),
        ("bmp;x", "rgb", "webp", "RGB"),
    ],
)
def test_previews_are_webp_or_jpeg(form, channel, kind, mode):
    data, content_type = media.preview(png(), form, channel)
    assert content_type == f"image/{kind}"
    assert (reread(data).format, reread(data).mode) == (kind.upper(), mode)


def test_channels_are_taken_apart_without_compositing():
    assert reread(media.channel_png(png(), "rgb")).getpixel((0, 0)) == (10, 20, 30)
    assert reread(media.channel_png(png(), "a")).getpixel((0, 0)) == (0, 0, 0, 40)
    assert reread(media.channel_png(png("RGB"), "a")).getpixel((0, 0)) == (0, 0, 0, 255)


def test_damaged_pictures_are_bad_input(tmp_path):
    whole = png("RGB", (64, 64))
    chance = random.Random(3)
    cases = [
        b"",
        b"GIF89a",
        whole[:40],
        whole[: len(whole) // 2],
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        whole[:33] + b"x" * 99,
    ]
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(4):
            broken[chance.randrange(8, len(broken))] = chance.randrange(256)
        cases.append(bytes(broken))
    refused = 0
    for data in cases:
        try:
            media.open_image(data).close()
        except BadInput:
            refused += 1
    assert refused > len(cases) // 2
    with pytest.raises(NotFound):
        media.open_image(tmp_path / "absent.png")
    (tmp_path / "half.png").write_bytes(whole[:60])
    with pytest.raises(BadInput, match=r"half\.png"):
        media.open_image(tmp_path / "half.png")


@pytest.mark.parametrize("side", [13_400, 30_000, 2**31 - 1])
def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(side):
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    with pytest.raises(BadInput):
        media.open_image(data)


def test_a_text_chunk_that_explodes_is_refused():
    body = b"prompt\0\0" + zlib.compress(bytes(80 << 20))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    data = png()
    with pytest.raises(BadInput):
        media.read_texts(data[:33] + chunk + data[33:])
