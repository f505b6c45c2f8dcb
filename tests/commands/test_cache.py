"""`squeeze cache`: what is shown, what is deleted, what is asked."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.filesize import decimal
from safetensors.numpy import save

from squeeze_cli.commands import lists as command
from squeeze_cli.features.store import FeatureStore, StoreKey
from tests.conftest import Squeeze

VIT = StoreKey("vit", "w", "features", "square96-x", "32")
DEEPLAB = replace(VIT, backbone="deeplab", layer="trunk", precision="bf16")


def fill(cache: Path, key: StoreKey, names: list[str], used_s: int) -> FeatureStore:
    """A space with one shard of `names`, last used `used_s` seconds after 1970."""
    store = FeatureStore(cache, key)
    states = np.ones((len(names), 3, 2, 5), dtype=np.float32)
    store.add(names, states)
    store.mark_used()
    for file in store.folder.iterdir():
        os.utime(file, (used_s, used_s))
    return store


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, FeatureStore]:
    return {
        "vit": fill(tmp_path / "cache", VIT, ["a", "b"], 86_400 * 400),
        "deeplab": fill(tmp_path / "cache", DEEPLAB, ["a", "b", "c"], 86_400 * 800),
    }


def test_ls_shows_each_space_the_last_used_first(
    squeeze: Squeeze, stores: dict[str, FeatureStore]
) -> None:
    two = np.ones((2, 3, 2, 5), np.float32)
    stores["vit"].add(["b", "c"], two)  # b is there twice now
    shown = json.loads(squeeze("cache", "ls", "--json", "--cache-dir", "cache").stdout)
    vit, deeplab = shown  # vit was just written to
    assert vit["images"] == 3
    assert deeplab["images"] == 3
    for space, store, key in ((vit, stores["vit"], VIT), (deeplab, stores["deeplab"], DEEPLAB)):
        assert space["key"] == store.folder.name
        assert (space["layer"], space["precision"]) == (key.layer, key.precision)
        assert space["image_size_px"] == 96
        assert space["bytes"] == sum(f.stat().st_size for f in store.folder.iterdir())
    assert deeplab["last_used"] == "1972-03-11T00:00:00+00:00"
    assert [space["backbone"] for space in shown] == ["vit", "deeplab"]


def test_ls_fits_80_columns_and_sums_up(squeeze: Squeeze, stores: dict[str, FeatureStore]) -> None:
    lines = squeeze("cache", "ls", "--cache-dir", "cache").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [word in lines[1] for word in ("deeplab", "trunk", "bf16", "96", "1972-03-11")] == [
        True
    ] * 5
    total = sum(f.stat().st_size for s in stores.values() for f in s.folder.iterdir())
    assert lines[-1].split() == decimal(total).split()


def test_nothing_kept_is_no_error(squeeze: Squeeze) -> None:
    shown = squeeze("cache", "ls", "--cache-dir", "nowhere")
    assert shown.stdout == ""
    assert "No features are kept in nowhere" in shown.stderr
    assert json.loads(squeeze("cache", "clear", "--json", "--cache-dir", "nowhere").stdout) == []


def test_damage_is_shown_as_what_is_whole(
    squeeze: Squeeze, stores: dict[str, FeatureStore]
) -> None:
    (shard,) = stores["vit"].folder.glob("*.safetensors")
    shard.write_bytes(b"half")
    (stores["vit"].folder / "space.json").write_text("[")
    shown = json.loads(squeeze("cache", "ls", "--json", "--cache-dir", "cache").stdout)
    (space,) = (s for s in shown if s["key"] == stores["vit"].folder.name)
    assert (space["images"], space["backbone"], space["image_size_px"]) == (0, None, None)
    assert space["bytes"] == 5


def test_a_store_of_an_older_version_is_shown_and_can_be_cleared(
    squeeze: Squeeze, stores: dict[str, FeatureStore]
) -> None:
    """Its key has no format in it, and its shards hold masks besides."""
    folder = stores["vit"].folder
    older = folder.rename(folder.parent / "0123456789abcdef0123")
    (shard,) = older.glob("*.safetensors")
    tensors = {"states": np.ones((1, 2), np.float16), "masks": np.ones((1, 4, 4), np.uint8)}
    shard.write_bytes(save(tensors, {"format": "1", "rows": '["a"]', "crc32": "[1]"}))
    shown = json.loads(squeeze("cache", "ls", "--json", "--cache-dir", "cache").stdout)
    (space,) = (s for s in shown if s["key"] == older.name)
    assert (space["images"], space["backbone"], space["image_size_px"]) == (0, "vit", 96)
    squeeze("cache", "clear", "0123", "--yes", "--cache-dir", "cache")
    assert not older.exists()


def test_clear_by_the_beginning_of_a_key(squeeze: Squeeze, stores: dict[str, FeatureStore]) -> None:
    key = stores["vit"].folder.name
    done = squeeze("cache", "clear", key[:6], "--yes", "--cache-dir", "cache")
    assert "Deleted" in done.stderr
    assert not stores["vit"].folder.exists()
    assert stores["deeplab"].folder.exists()


def test_clear_takes_all_spaces_and_nothing_else(
    squeeze: Squeeze, stores: dict[str, FeatureStore], tmp_path: Path
) -> None:
    other = tmp_path / "cache" / "features" / "notes"
    other.mkdir()
    squeeze("cache", "clear", "--yes", "--cache-dir", "cache")
    assert list((tmp_path / "cache" / "features").iterdir()) == [other]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("clear", "zz", "--yes"), "squeeze cache ls"),
        (("clear", "", "--yes"), "Several keys begin with"),
        (("clear",), "add --yes"),
        (("ls", "--yes"), "--yes has no effect"),
        (("list",), "ls"),
        ((), "Missing argument"),
    ],
    ids=" ".join,
)
def test_wrong_usage_deletes_nothing(
    squeeze: Squeeze, stores: dict[str, FeatureStore], arguments: tuple[str, ...], part: str
) -> None:
    done = squeeze("cache", *arguments, "--cache-dir", "cache", code=2)
    assert part in done.stderr
    assert all(store.folder.exists() for store in stores.values())


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_on_a_terminal_it_asks(
    stores: dict[str, FeatureStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    answer: str, code: int,
) -> None:  # fmt: skip
    from typer.testing import CliRunner

    from squeeze_cli.cli import app

    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    monkeypatch.setattr(command, "sys", type("sys", (), {"stdin": Terminal}))
    arguments = ["cache", "clear", "--cache-dir", str(tmp_path / "cache")]
    done = CliRunner().invoke(app, arguments, input=answer)
    assert done.exit_code == code
    assert "Delete " in done.stderr
    assert [s.folder.exists() for s in stores.values()] == [answer == "n\n"] * 2
