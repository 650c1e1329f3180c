"""The golden cases that are copied here, each a test; what has no runner yet is skipped by name."""

from pathlib import Path

import pytest

from tests.golden.run import case_name, cases_in, judge, runners

CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize("path", list(cases_in(CASES)), ids=case_name)
def test_the_case_agrees_with_the_reference(path):
    verdict = judge(path, runners())
    if verdict.word == "UNSUPPORTED":
        pytest.skip(verdict.line())
    assert verdict.word == "PASS", verdict.line()
