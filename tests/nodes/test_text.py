import pytest

from limner.errors import BadInput
from limner.nodes import primitive, text
from limner.nodes.preview_any import preview_any


def test_concatenation_puts_the_delimiter_even_beside_an_empty_text():
    assert text.concatenate("a", "", delimiter=", ") == "a, "


def test_substring_counts_from_the_end_with_negatives():
    assert text.substring("picture", -4, -1) == "tur"


def test_length_counts_code_points():
    assert text.length("añ🍎") == (3,)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("UPPERCASE", "A RED-HOT APPLE"),
        ("lowercase", "a red-hot apple"),
        ("Capitalize", "A red-hot apple"),
        ("Title Case", "A Red-Hot Apple"),
    ],
)
def test_case_is_converted(mode, expected):
    assert text.convert_case("a rEd-hot APPLE", mode) == expected


@pytest.mark.parametrize(("mode", "expected"), [("Both", "a"), ("Left", "a\t\n"), ("Right", "\u3000 a")])
def test_trim_takes_unicode_white_space(mode, expected):
    assert text.trim("\u3000 a\t\n", mode) == expected


def test_replacing_nothing_inserts_between_all_characters():
    assert text.replace("ab", "", "-") == "-a-b-"


def test_contains_and_compare_can_ignore_case():
    assert text.contains("Red Apple", "red", case_sensitive=False) == (True,)
    assert text.contains("Red Apple", "red") == (False,)
    assert text.compare("Red Apple", "APPLE", "Ends With", case_sensitive=False) is True
    assert text.compare("Red", "red", "Equal") is False


def test_a_pattern_is_found_anywhere_and_a_bad_one_never():
    assert text.regex_match("a Fox", "fox") == (True,)
    assert text.regex_match("a fox", "^fox") == (False,)
    assert text.regex_match("a\nfox", "^fox", multiline=True) == (True,)
    assert text.regex_match("a fox", "(") == (False,)


@pytest.mark.parametrize(
    ("pattern", "mode", "index", "expected"),
    [
        (r"\d+", "First Match", 1, "12"),
        (r"x", "First Match", 1, ""),
        (r"\d+", "All Matches", 1, "12\n34"),
        (r"(\d)(\d)", "All Matches", 1, "1\n3"),
        (r"(\d)(\d)", "First Group", 2, "2"),
        (r"(\d)(\d)", "First Group", 3, ""),
        (r"(\d)(\d)", "First Group", 0, "12"),
        (r"(\d)(\d)", "All Groups", 2, "2\n4"),
        (r"\d+", "All Groups", 0, ""),
        (r"(\d)(x)?", "First Group", 2, None),
        (r"(", "All Matches", 1, ""),
    ],
)
def test_extraction_follows_its_mode(pattern, mode, index, expected):
    assert text.regex_extract("12 a 34", pattern, mode, group_index=index) == expected


def test_extracting_all_of_a_group_that_is_missing_is_refused():
    with pytest.raises(BadInput, match="group 2"):
        text.regex_extract("12", r"(\d)(x)?", "All Groups", group_index=2)


def test_regex_replacement_knows_groups_and_counts():
    assert text.regex_replace("a1 b2 c3", r"(\w)(\d)", r"\2\1", count=2) == "1a 2b c3"


@pytest.mark.parametrize(("pattern", "replacement"), [("(", ""), ("a", r"\3")])
def test_a_bad_pattern_or_group_in_a_replacement_is_refused(pattern, replacement):
    with pytest.raises(BadInput, match="Regex Replace"):
        text.regex_replace("a", pattern, replacement)


def test_primitives_give_what_they_get():
    assert primitive.string("a") == "a"
    assert primitive.lines("a\nb") == "a\nb"
    assert primitive.integer(-3) == -3
    assert primitive.number(0.5) == 0.5
    assert primitive.switch(True) is True


class Unprintable:
    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a fox", "a fox"),
        (True, "True"),
        (3, "3"),
        (0.1, "0.1"),
        (None, "None"),
        ({"é": [1]}, '{\n    "\\u00e9": [\n        1\n    ]\n}'),
        ({1}, "{1}"),
        (Unprintable(), "The value exists, but could not be serialized."),
    ],
)
def test_preview_any_shows_text(value, shown):
    assert preview_any(value).ui == {"text": [shown]}
