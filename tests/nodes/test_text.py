import contextlib
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from limner.errors import BadInput, Interrupted, LimnerError
from limner.nodes import primitive, text
from limner.nodes.patterns import ask
from limner.nodes.preview_any import preview_any

RUN = SimpleNamespace(check=lambda: None)


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
    assert text.regex_match(RUN, "a Fox", "fox") == (True,)
    assert text.regex_match(RUN, "a fox", "^fox") == (False,)
    assert text.regex_match(RUN, "a\nfox", "^fox", multiline=True) == (True,)
    assert text.regex_match(RUN, "a fox", "(") == (False,)


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
    assert text.regex_extract(RUN, "12 a 34", pattern, mode, group_index=index) == expected


def test_extracting_all_of_a_group_that_is_missing_is_refused():
    with pytest.raises(BadInput, match="group 2"):
        text.regex_extract(RUN, "12", r"(\d)(x)?", "All Groups", group_index=2)


def test_regex_replacement_knows_groups_and_counts():
    assert text.regex_replace(RUN, "a1 b2 c3", r"(\w)(\d)", r"\2\1", count=2) == "1a 2b c3"


@pytest.mark.parametrize(("pattern", "replacement"), [("(", ""), ("a", r"\3")])
def test_a_bad_pattern_or_group_in_a_replacement_is_refused(pattern, replacement):
    with pytest.raises(BadInput, match="Regex Replace"):
        text.regex_replace(RUN, "a", pattern, replacement)


def test_odd_characters_go_there_and_back():
    odd = "a\ud800\u2028\n\r\0😀"
    assert text.regex_replace(RUN, odd, "a", "b") == odd.replace("a", "b")


def test_a_long_text_is_searched_whole():
    long = "x" * 3_000_000 + "fox"
    assert text.regex_replace(RUN, long, "fox$", "") == long[:-3]
    assert text.regex_match(RUN, long, "^x+fox$") == (True,)


RUNAWAY = ("a" * 40 + "!", "(a+)+$")


def test_a_runaway_pattern_holds_nobody_else_and_ends_when_interrupted():
    stop, ticks, raised = threading.Event(), [], []

    def check():
        if stop.is_set():
            raise Interrupted

    def run_away():
        try:
            ask(check, "match", *RUNAWAY, 0)
        except Interrupted as error:
            raised.append(error)

    before = helpers()
    thread = threading.Thread(target=run_away)
    thread.start()
    started = time.monotonic()
    while len(ticks) < 50:  # this thread keeps its turns
        ticks.append(sum(range(1000)))
    assert text.regex_match(RUN, "a fox", "fox") == (True,)  # and so do other patterns
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert raised
    assert time.monotonic() - started < 10
    assert len(helpers() - before) <= 1, "the process of the runaway pattern is gone"


def helpers():
    """Helper processes that live; one that has ended but was not waited for is none."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "_pattern_child" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def end_helpers():
    for pid in helpers():
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).kill()
    deadline = time.monotonic() + 10
    while helpers() and time.monotonic() < deadline:
        pass


def test_a_helper_that_died_is_replaced_and_one_that_dies_at_work_is_told():
    assert text.regex_match(RUN, "a", "a") == (True,)
    end_helpers()
    assert text.regex_match(RUN, "a", "a") == (True,)
    with pytest.raises(LimnerError, match="ended"):
        ask(end_helpers, "match", *RUNAWAY, 0)


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
