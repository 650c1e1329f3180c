"""Every broken model file is refused by name and reason, whichever way it is broken."""

from pathlib import Path

import pytest

from limner.errors import BadInput
from limner.weights.header import CheckpointHeader
from tests.refusals.files import FILES, BrokenFile


@pytest.mark.parametrize("broken", FILES, ids=lambda broken: broken.name)
def test_a_broken_file_is_refused_with_its_reason(broken: BrokenFile, tmp_path: Path) -> None:
    path = tmp_path / broken.file
    path.write_bytes(broken.make())
    with pytest.raises(BadInput) as caught:
        header = CheckpointHeader.read(path)
        for name in header:
            header.tensor(name)
    text = str(caught.value)
    assert broken.file in text
    assert [word for word in broken.says if word not in text] == []
    assert caught.value.do or caught.value.why
