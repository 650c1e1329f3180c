"""Text: joined, cut, compared, and matched against patterns."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, NamedTuple

from limner.errors import BadInput
from limner.graph import Bool, Choice, Int, Optional, Run, Text, node
from limner.nodes.patterns import PatternFailed, ask

Line = Annotated[str, Text(multiline=False)]
Lines = Annotated[str, Text(multiline=True)]
Case = Annotated[str, Choice(("UPPERCASE", "lowercase", "Capitalize", "Title Case"))]
Side = Annotated[str, Choice(("Both", "Left", "Right"))]
Comparison = Annotated[str, Choice(("Starts With", "Ends With", "Equal"))]
Extraction = Annotated[str, Choice(("First Match", "All Matches", "First Group", "All Groups"))]


class Length(NamedTuple):
    """How long a text is, in code points."""

    length: int


class Contained(NamedTuple):
    """Whether a text is part of another."""

    contains: bool


class Matched(NamedTuple):
    """Whether a pattern was found."""

    matches: bool


text_node = partial(node, category="utils/string", python_module="comfy_extras.nodes_string", style="v3")


@text_node("StringConcatenate", title="Concatenate")
def concatenate(string_a: Lines, string_b: Lines, delimiter: Line = "") -> str:
    """The first text, the delimiter, the second text.

    string_a: what comes first.
    string_b: what comes last.
    delimiter: what stands between them, even where one is empty.
    """
    return delimiter.join((string_a, string_b))


@text_node("StringSubstring", title="Substring")
def substring(string: Lines, start: int, end: int) -> str:
    """The characters from `start` up to but without `end`.

    string: the text to cut from.
    start: the first character; negative counts from the end.
    end: the first character left out; negative counts from the end.
    """
    return string[start:end]


@text_node("StringLength", title="Length")
def length(string: Lines) -> Length:
    """How many characters a text has.

    string: the text to measure.
    """
    return Length(len(string))


@text_node("CaseConverter", title="Case Converter")
def convert_case(string: Lines, mode: Case) -> str:
    """The text in other case.

    string: the text to convert.
    mode: Capitalize makes all but the first letter small; Title Case makes each word's first letter large.
    """
    convert = {"UPPERCASE": str.upper, "lowercase": str.lower, "Capitalize": str.capitalize, "Title Case": str.title}
    return convert[mode](string)


@text_node("StringTrim", title="Trim")
def trim(string: Lines, mode: Side) -> str:
    """The text without white space at its ends.

    string: the text to trim.
    mode: which ends.
    """
    return {"Both": str.strip, "Left": str.lstrip, "Right": str.rstrip}[mode](string)


@text_node("StringReplace", title="Replace")
def replace(string: Lines, find: Lines, replace: Lines) -> str:
    """The text with every occurrence of one text replaced by another.

    string: the text to search.
    find: what to look for, letter for letter; empty stands between all characters.
    replace: what to put in its place.
    """
    return string.replace(find, replace)


@text_node("StringContains", title="Contains")
def contains(string: Lines, substring: Lines, case_sensitive: bool = True) -> Contained:
    """Whether one text is part of another.

    string: the text to search.
    substring: what to look for.
    case_sensitive: whether a and A differ.
    """
    if not case_sensitive:
        string, substring = string.lower(), substring.lower()
    return Contained(substring in string)


@text_node("StringCompare", title="Compare")
def compare(string_a: Lines, string_b: Lines, mode: Comparison, case_sensitive: bool = True) -> bool:
    """Whether the first text starts with, ends with or is the second.

    string_a: the text to look at.
    string_b: what to compare it with.
    mode: how.
    case_sensitive: whether a and A differ.
    """
    if not case_sensitive:
        string_a, string_b = string_a.lower(), string_b.lower()
    if mode == "Equal":
        return string_a == string_b
    return string_a.startswith(string_b) if mode == "Starts With" else string_a.endswith(string_b)


def _flags(case_insensitive: bool, multiline: bool, dotall: bool) -> int:
    return int(re.IGNORECASE * case_insensitive | re.MULTILINE * multiline | re.DOTALL * dotall)


@text_node("RegexMatch", title="Regex Match")
def regex_match(
    run: Run,
    string: Lines,
    regex_pattern: Lines,
    case_insensitive: bool = True,
    multiline: bool = False,
    dotall: bool = False,
) -> Matched:
    """Whether a pattern is found anywhere in the text; a pattern that is no pattern is never found.

    string: the text to search.
    regex_pattern: a regular expression.
    case_insensitive: take a and A as one.
    multiline: let ^ and $ match at every line.
    dotall: let . match the end of a line too.
    """
    flags = _flags(case_insensitive, multiline, dotall)
    return Matched(ask(run.check, "match", string, regex_pattern, flags))


@text_node("RegexExtract", title="Regex Extract")
def regex_extract(
    run: Run,
    string: Lines,
    regex_pattern: Lines,
    mode: Extraction,
    *,
    case_insensitive: bool = True,
    multiline: bool = False,
    dotall: bool = False,
    group_index: Annotated[int, Int(min=0, max=100)] = 1,
) -> str | None:
    """What a pattern finds in the text, one a line; empty where it finds nothing or is no pattern.

    string: the text to search.
    regex_pattern: a regular expression.
    mode: the first match or all of them, whole or one group of each. All Matches of a pattern with groups gives the
        first group of each.
    case_insensitive: take a and A as one.
    multiline: let ^ and $ match at every line.
    dotall: let . match the end of a line too.
    group_index: which group; 0 is the whole match.
    """
    flags = _flags(case_insensitive, multiline, dotall)
    try:
        found: str | None = ask(run.check, "extract", string, regex_pattern, flags, mode, group_index)
    except PatternFailed as error:
        raise BadInput(
            f"Regex Extract: {error}; the pattern is {regex_pattern!r}.",
            why="The group is optional in the pattern.",
            do="Make the group match always, for example with (x?) in place of (x)?.",
        ) from error
    return found


@text_node("RegexReplace", title="Regex Replace")
def regex_replace(
    run: Run,
    string: Lines,
    regex_pattern: Lines,
    replace: Lines,
    *,
    case_insensitive: Annotated[bool, Bool(), Optional()] = True,
    multiline: Annotated[bool, Bool(), Optional()] = False,
    dotall: Annotated[bool, Bool(), Optional()] = False,
    count: Annotated[int, Int(min=0, max=100), Optional()] = 0,
) -> str:
    r"""The text with what a pattern finds replaced.

    string: the text to search.
    regex_pattern: a regular expression.
    replace: what to put in place of a match; \1 is its first group.
    case_insensitive: take a and A as one.
    multiline: let ^ and $ match at every line.
    dotall: let . match the end of a line too.
    count: how many matches are replaced; 0 is all.
    """
    flags = _flags(case_insensitive, multiline, dotall)
    try:
        replaced: str = ask(run.check, "replace", string, regex_pattern, flags, replace, count)
    except PatternFailed as error:
        raise BadInput(
            f"Regex Replace: {error}.",
            why=f"The pattern is {regex_pattern!r}, the replacement {replace!r}.",
            do="Correct the pattern, or refer to groups that it has.",
        ) from error
    return replaced
