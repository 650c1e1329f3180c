"""Sizes of memory as people write them."""

from __future__ import annotations

import pytest

from limner.errors import BadInput
from limner.memory.sizes import Size, allowed

MIB, GIB = 1024**2, 1024**3


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("6G", 6 * GIB),
        ("6GB", 6 * GIB),
        ("6 gib", 6 * GIB),
        ("6", 6 * GIB),
        (" 0.5 ", GIB // 2),
        (".5", GIB // 2),
        ("1.5GiB", 3 * GIB // 2),
        ("512M", 512 * MIB),
        ("512mb", 512 * MIB),
        ("64k", 64 * 1024),
        ("1T", 1024 * GIB),
        ("4096B", 4096),
        ("0", 0),
    ],
)
def test_a_size_is_a_number_with_a_unit_and_without_one_in_gb(text: str, nbytes: int) -> None:
    assert Size.parse(text).of(10**15) == nbytes


def test_a_percentage_is_of_what_there_is() -> None:
    assert Size.parse("80%").of(1000) == 800
    assert Size.parse("12.5 %").of(1000) == 125
    assert Size.parse("100%").of(12345) == 12345


def test_no_more_than_there_is() -> None:
    assert Size.parse("6G").of(GIB) == GIB
    assert Size.parse("9" * 400).of(GIB) == GIB, "more than a float holds"


@pytest.mark.parametrize("text", ["", "G", "six", "-1", "1,5G", "6X", "6GBB", "nan", "inf", "1e3", "50%G", "True"])
def test_what_is_no_size_is_refused_with_what_one_looks_like(text: str) -> None:
    with pytest.raises(BadInput, match=r"is no size.*such as 6G"):
        Size.parse(text)


def test_more_than_everything_is_refused() -> None:
    with pytest.raises(BadInput, match="100%"):
        Size.parse("101%")


def test_a_size_says_itself() -> None:
    assert [str(Size.parse(text)) for text in ("6G", "512M", "80%")] == ["6 GB", "0.5 GB", "80 %"]


def test_without_a_size_all_is_allowed() -> None:
    assert allowed(None, 1000) == 1000
    assert allowed(Size.parse("80%"), 1000) == 800
