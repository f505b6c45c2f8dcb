"""`squeeze backbones` lists what `--model` takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from squeeze_cli.config.parts import BACKBONES
from tests.conftest import Squeeze


def listed(squeeze: Squeeze, *arguments: str) -> dict[str, dict[str, object]]:
    found = json.loads(squeeze("backbones", *arguments, "--json").stdout)["backbones"]
    return {each["name"]: each for each in found}


def test_own_backbones_come_first_and_the_rest_is_counted(
    squeeze: Squeeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    done = squeeze("backbones", "--limit", "4")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == [
        name for name in BACKBONES if name != "timm:"
    ]
    assert re.search(r"^Shown are 4 of \d,\d{3}: narrow the PATTERN", done.stderr, re.M)
    found = listed(squeeze, "--limit", "3")
    assert found["vit"] == {
        "name": "vit", "channels": 768, "stride": 32, "image_size": "224", "layers": None,
        "weights": "download",
    }  # fmt: skip
    assert found["efficientnet-lite0"]["weights"] == "here"


def test_a_part_of_a_name_and_a_pattern_find_models(squeeze: Squeeze) -> None:
    found = listed(squeeze, "small_patch14_reg4_dinov2")
    assert list(found) == ["timm:vit_small_patch14_reg4_dinov2.lvd142m"]
    (one,) = found.values()
    assert (one["channels"], one["stride"], one["image_size"]) == (384, 14, "518")
    assert (one["layers"], one["weights"]) == (12, "download")
    assert all(name.startswith("timm:test_vit") for name in listed(squeeze, "test_vit*"))
    assert listed(squeeze, "botnet50ts_256")["timm:botnet50ts_256"]["weights"] == "none"
    done = squeeze("backbones", "no-such-name", code=2)
    assert "No backbone matches 'no-such-name'" in done.stderr


def test_what_it_says_of_a_model_is_what_the_model_gives(squeeze: Squeeze) -> None:
    """`samvit` ends in a neck of fewer channels."""
    found = listed(squeeze, "samvit_base")
    assert found["timm:samvit_base_patch16.sa1b"]["channels"] == 256


def test_a_model_without_dense_features_is_listed_without_channels(squeeze: Squeeze) -> None:
    import timm

    if not timm.is_model("gemma4_vit_167m"):
        pytest.skip("older timm")
    found = listed(squeeze, "gemma4_vit_167m").values()
    assert {(each["channels"], each["stride"]) for each in found} == {(None, None)}


@pytest.mark.slow
def test_the_table_keeps_to_80_columns(squeeze: Squeeze) -> None:
    lines = squeeze("backbones", "siglip_gap", "--limit", "12").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["--model", "channels", "stride", "px", "layers", "weights"]
