"""The map from rules to tests is whole and true."""

import pytest

from tests.contract.index import HERE, exists, held, readme, rules

AREAS = sorted(file.stem for file in (HERE / "map").glob("*.md"))


def test_every_rule_has_a_test() -> None:
    mapped = {one.rule for one in held()}

    assert [rule for rule in rules() if rule not in mapped] == []


@pytest.mark.parametrize("area", AREAS)
def test_every_test_that_the_map_names_is_there(area: str) -> None:
    assert sorted({one.test for one in held() if one.area == area and not exists(one.test)}) == []


def test_the_readme_is_written_from_the_maps() -> None:
    assert (HERE / "README.md").read_text(encoding="utf-8") == readme(), "run `python -m tests.contract.index`"
