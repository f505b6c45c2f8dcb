from __future__ import annotations

from pathlib import Path

import pytest

from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import replacing, write_text_atomically


@pytest.mark.parametrize("target", ["/dev/null", "folder"])
def test_only_regular_files_are_replaced(target: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / target  # an absolute target stays itself
    if not path.exists():
        pytest.skip("no /dev/null on this system")
    with pytest.raises(SqueezeError, match=r"no regular file .*name another") as caught:
        write_text_atomically(path, "text")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]


def test_folders_are_made_and_permissions_set(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    with replacing(path, mode=0o600) as temporary:
        temporary.write_text("text")
    assert path.read_text() == "text"
    assert path.stat().st_mode & 0o777 == 0o600
