from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from squeeze_cli.codec.prior_files import write_prior
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.shards import write_shard
from squeeze_cli.files import write_atomically
from squeeze_cli.training.checkpoints import WholeFiles
from tests.codec.priors import drawn_prior


@pytest.mark.parametrize("target", ["/dev/null", "folder", ""])
def test_only_regular_files_are_replaced(target: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / target  # an absolute target stays itself
    if not path.exists():
        pytest.skip("no /dev/null on this system")
    with pytest.raises(SqueezeError, match=r"not a regular file .*name another") as caught:
        write_atomically(path, "text")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc on this system")
@pytest.mark.parametrize("place", ["/proc/self/fd/1", "link to it"])
def test_what_is_open_anyway_is_not_replaced(place: str, tmp_path: Path) -> None:
    """As `--csv /dev/stdout > out.txt` would: the shell holds the file that is replaced."""
    (tmp_path / "link to it").symlink_to("/proc/self/fd/1")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from squeeze_cli.files import write_atomically\n"
        "write_atomically(Path(sys.argv[1]), 'text')\n"
    )
    with (tmp_path / "out.txt").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / place)], stdout=out, stderr=subprocess.PIPE
        )
    assert b"is not a regular file" in done.stderr
    assert (tmp_path / "link to it").is_symlink()
    assert (tmp_path / "out.txt").read_text() == ""


def test_a_link_is_replaced_and_not_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "photo").write_text("a photograph")
    (tmp_path / "soft").symlink_to("photo")
    (tmp_path / "hard").hardlink_to(tmp_path / "photo")
    for link in ("soft", "hard"):
        write_atomically(tmp_path / link, "text")
        assert (tmp_path / link).read_text() == "text"
        assert (tmp_path / "photo").read_text() == "a photograph"


def test_folders_are_made_and_permissions_set(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, b"text", mode=0o600)
    assert path.read_text() == "text"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("name", ["shard", "prior", "checkpoint", "text"])
def test_files_have_the_usual_permissions(name: str, tmp_path: Path) -> None:
    path, states = tmp_path / name, np.zeros((1, 2, 2, 3), np.float32)
    before = os.umask(0o027)
    try:
        if name == "shard":
            write_shard(path, ["a"], states)
        elif name == "prior":
            write_prior(path, drawn_prior((4,), (2, 2)))
        elif name == "checkpoint":
            WholeFiles().save_checkpoint({"a": 1}, path)
        else:
            write_atomically(path, "text")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "make room there, or name another place"),
        (errno.EDQUOT, "make room there, or name another place"),
        (errno.EROFS, "name another place"),
        (errno.EFBIG, "ulimit -f"),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_what_cannot_be_written_is_one_line_and_leaves_the_old_file(
    number: int, said: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def fail(*arguments: object, **others: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(SqueezeError, match=said) as caught:
            write_atomically(path, "new")
    assert str(caught.value).startswith(f"Cannot write {path} ({os.strerror(number)}): ")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_may_be_as_long_as_the_system_takes_them(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), "text")
    with pytest.raises(SqueezeError, match="choose a shorter name"):
        write_atomically(tmp_path / ("n" * 256), "text")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_file_that_the_system_cuts_off_is_not_there(tmp_path: Path) -> None:
    """In a process of its own, which may write no longer file from there on."""
    paths = [tmp_path / name for name in ("shard", "checkpoint")]
    for path in paths:
        path.write_text("before")
    code = (
        "import resource, sys, numpy as np, torch\nfrom pathlib import Path\n"
        "from squeeze_cli.errors import SqueezeError\n"
        "from squeeze_cli.features.shards import write_shard\n"
        "from squeeze_cli.training.checkpoints import WholeFiles\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "shard, checkpoint = map(Path, sys.argv[1:])\n"
        "data = np.ones((1, 100, 100, 3), np.float32)\n"
        "for write in (\n"
        "    lambda: write_shard(shard, ['a'], data),\n"
        "    lambda: WholeFiles().save_checkpoint({'a': torch.from_numpy(data)}, checkpoint),\n"
        "):\n"
        "    try:\n"
        "        write()\n"
        "    except SqueezeError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths), done.stderr
    for path, line in zip(paths, lines, strict=True):
        assert line.startswith(f"Cannot write {path} (File too large): ")
        assert path.read_text() == "before"
    assert sorted(tmp_path.iterdir()) == sorted(paths)
