from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from squeeze_cli.codec.prior import write_prior
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.shards import write_shard
from squeeze_cli.files import replacing, write_text_atomically
from squeeze_cli.inference.output import save_embeddings
from squeeze_cli.training.checkpoints import WholeFiles
from tests.codec.priors import drawn_prior


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


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("name", ["shard", "prior", "embeddings", "checkpoint", "text"])
def test_files_have_the_usual_permissions(name: str, tmp_path: Path) -> None:
    path, states = tmp_path / name, np.zeros((1, 2, 2, 3), np.float32)
    before = os.umask(0o027)
    try:
        if name == "shard":
            write_shard(path, ["a"], states)
        elif name == "prior":
            write_prior(path, drawn_prior((4,), (2, 2)))
        elif name == "embeddings":
            with replacing(path) as temporary:
                save_embeddings(temporary, states, ["a"])
        elif name == "checkpoint":
            WholeFiles().save_checkpoint({"a": 1}, path)
        else:
            write_text_atomically(path, "text")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("writer", ["shard", "checkpoint"])
def test_a_full_disk_is_an_oserror(writer: str, tmp_path: Path) -> None:
    """`squeeze` prints such an error as one line; the file that was there stays."""
    path = tmp_path / "file"
    path.write_text("before")
    code = (
        "import resource, signal, sys, numpy as np, torch\nfrom pathlib import Path\n"
        "from squeeze_cli.features.shards import write_shard\n"
        "from squeeze_cli.training.checkpoints import WholeFiles\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "path, data = Path(sys.argv[2]), np.ones((1, 100, 100, 3), np.float32)\n"
        "try:\n"
        "    if sys.argv[1] == 'shard':\n"
        "        write_shard(path, ['a'], data)\n"
        "    else:\n"
        "        WholeFiles().save_checkpoint({'a': torch.from_numpy(data)}, path)\n"
        "except OSError:\n"
        "    print('OSError')\n"
    )
    command = [sys.executable, "-c", code, writer, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "OSError", done.stderr
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
