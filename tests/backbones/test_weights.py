"""Weights from stand-ins for what torchvision publishes, and from files."""

from __future__ import annotations

import hashlib
import os
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import Weights as Published
from torchvision.models import WeightsEnum, resnet50, vit_b_32
from torchvision.models.segmentation import deeplabv3_resnet50

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.torchvision_models import published_urls
from squeeze_cli.backbones.weights import Weights, load_strictly, published_weights
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.errors import SqueezeError, UsageError

SIZE = 64


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's cache, empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def published_at(url: str) -> Any:
    """An enumeration as torchvision's, of one file."""
    return WeightsEnum("Known_Weights", {"V1": Published(url, nn.Identity, {})})


def publish(folder: Path, content: bytes, digest: str | None = None) -> Any:
    """`published_at` a file of this content, named after its digest as torchvision's are."""
    digest = digest or hashlib.sha256(content).hexdigest()[:8]
    file = folder / f"model-{digest}.pth"
    file.write_bytes(content)
    return published_at(file.as_uri())


def test_published_weights_are_fetched_once(tmp_path: Path, hub: Path) -> None:
    known = publish(tmp_path, b"some weights")
    place = published_weights(known, "V1")
    assert place.parent == hub
    assert place.read_bytes() == b"some weights"
    (tmp_path / place.name).unlink()  # from now on there is only the fetched one
    assert published_weights(known, "V1") == place


def test_a_download_that_is_not_what_was_published_is_thrown_away(
    tmp_path: Path, hub: Path
) -> None:
    with pytest.raises(SqueezeError, match="invalid hash value") as caught:
        published_weights(publish(tmp_path, b"damaged", "0123abcd"), "V1")
    assert "--weights PATH" in str(caught.value)
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///w/model.pth", "http://host/model-0123abcd.pth"])
def test_what_cannot_be_verified_is_not_downloaded(hub: Path, url: str) -> None:
    with pytest.raises(SqueezeError, match=r"no checksum or no HTTPS: put them at .*model"):
        published_weights(published_at(url), "V1")
    assert not hub.exists()


def test_all_published_files_can_be_verified() -> None:
    urls = [*published_urls().values()]
    for name in timm.list_pretrained():
        settings = timm.get_pretrained_cfg(name)
        assert settings is not None
        if not settings.hf_hub_id and settings.url:  # the hub verifies its own
            urls.append(settings.url)
    assert len(urls) > 10
    for url in urls:
        assert url.startswith("https://")
        assert torch.hub.HASH_REGEX.search(url.rpartition("/")[2]), url


def test_without_a_network_the_message_says_where_to_put_them(tmp_path: Path, hub: Path) -> None:
    known = published_at("file:///nowhere/model-0123abcd.pth")
    with pytest.raises(SqueezeError, match=r"Cannot download the weights Known_Weights\.V1") as e:
        published_weights(known, "V1")
    assert f"put file:///nowhere/model-0123abcd.pth at {hub / 'model-0123abcd.pth'}" in str(e.value)


def test_unknown_published_weights_are_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights 'V2' for this backbone: choose V1"):
        published_weights(publish(tmp_path, b""), "V2")


def test_a_digest_follows_the_files_bytes(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"one")
    first = Weights("w.pth", file).digest
    assert first == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"two")
    assert Weights("w.pth", file).digest != first


def test_weights_that_change_after_they_were_chosen_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1)}, file)
    weights = Weights("w.pth", file)
    assert weights.read() == {"a": torch.zeros(1)}
    os.utime(file, ns=(0, 0))
    with pytest.raises(SqueezeError, match="was changed during this command"):
        weights.read()


def test_a_file_that_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"one")
    weights = Weights("w.pth", file)
    file.unlink()
    with pytest.raises(SqueezeError, match="is not a usable weights file"):
        _ = weights.digest


def test_a_digest_is_not_of_a_file_that_was_changed(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"one")
    weights = Weights("w.pth", file)
    os.utime(file, ns=(0, 0))
    with pytest.raises(SqueezeError, match="was changed during this command"):
        _ = weights.digest


@pytest.mark.parametrize("key", ["model", "model_state_dict"])
def test_checkpoints_of_trainings_hold_the_state_dict_under_usual_keys(
    key: str, tmp_path: Path
) -> None:
    torch.save({"epoch": 3, key: {"a": torch.zeros(1)}, "loss": 0.5}, tmp_path / "w.pth")
    assert Weights("w.pth", tmp_path / "w.pth").read() == {"a": torch.zeros(1)}


def test_files_of_safetensors_may_have_suffixes_of_any_case(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.SAFETENSORS")
    assert Weights("w", tmp_path / "w.SAFETENSORS").read() == {"a": torch.zeros(1)}


def test_pickled_modules_and_torchscript_are_refused_with_the_fix(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "args": Namespace(lr=1)}, tmp_path / "args.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pth")
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "script.pth")
    for file in tmp_path.iterdir():
        with pytest.raises(SqueezeError, match="Python objects: store the state dict alone"):
            Weights(file.name, file).read()
    assert not recwarn.list


def test_missing_unreadable_and_other_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SqueezeError, match="There is no weights file"):
        Weights("w.pth", tmp_path / "w.pth")
    file = tmp_path / "w.pth"
    file.write_bytes(b"no pickle")
    with pytest.raises(SqueezeError, match="is not a usable weights file"):
        Weights("w.pth", file).read()
    torch.save([1, 2], file)
    with pytest.raises(SqueezeError, match="holds no state dict"):
        Weights("w.pth", file).read()
    with pytest.raises(SqueezeError, match="There is no weights file"):
        create_backbone(ModelConfig(backbone="vit", weights=str(tmp_path / "x.pth")), (SIZE, SIZE))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, 'Missing .*"bias"'),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "c": torch.zeros(1)},
            'Unexpected .*"c"',
        ),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, "size mismatch for weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(SqueezeError, match=message):
        load_strictly(nn.Linear(3, 2), state, "w.pth")


def whole_model(name: str) -> nn.Module:
    torch.manual_seed(3)
    if name == "vit":
        return vit_b_32(weights=None, image_size=SIZE, num_classes=2).eval()
    return deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=3).eval()


@pytest.mark.parametrize("name", ["vit", "deeplab"])
def test_features_are_those_of_the_whole_model_in_the_file(name: str, tmp_path: Path) -> None:
    whole = whole_model(name)
    state = {  # the published ViT's names are older than its class
        k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v.half()
        for k, v in whole.state_dict().items()
    }
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    whole.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True)["state_dict"])
    backbone = create_backbone(
        ModelConfig(backbone=name, weights=str(tmp_path / "w.pth")), (SIZE, SIZE)
    )
    assert not backbone.random_weights
    assert {tensor.device.type for tensor in backbone.network.state_dict().values()} == {"cpu"}
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        features = backbone.network(images)
        if name == "deeplab":
            expected = whole.backbone(images)["out"]  # type: ignore[operator, union-attr]
        else:
            patches = whole._process_input(images)  # type: ignore[operator]
            first = whole.class_token.expand(2, -1, -1)  # type: ignore[operator, union-attr]
            tokens = whole.encoder(torch.cat([first, patches], dim=1))  # type: ignore[operator]
            expected = tokens[:, 1:].transpose(1, 2).reshape(2, 768, 2, 2)
    assert torch.allclose(features, expected, atol=1e-5)


def test_a_pretrained_head_comes_from_the_same_file(tmp_path: Path) -> None:
    whole = whole_model("deeplab")
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    config = ModelConfig(backbone="deeplab", weights=str(tmp_path / "w.pth"))
    head = create_backbone(config, (SIZE, SIZE)).head_state()
    assert set(head) == set(whole.classifier.state_dict())  # type: ignore[union-attr]
    assert (
        create_backbone(ModelConfig(backbone="deeplab", weights="none"), (SIZE, SIZE)).head_state()
        == {}
    )


def test_a_file_of_another_model_is_refused_where_it_is_read(tmp_path: Path) -> None:
    torch.save(resnet50(weights=None).state_dict(), tmp_path / "w.pth")
    backbone = create_backbone(
        ModelConfig(backbone="vit", weights=str(tmp_path / "w.pth")), (SIZE, SIZE)
    )
    with pytest.raises(SqueezeError, match=r"w\.pth do not fit this backbone .*Missing"):
        backbone.network.eval()


def test_vits_positions_are_interpolated_to_other_image_sizes(tmp_path: Path) -> None:
    whole = vit_b_32(weights=None)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    backbone = create_backbone(
        ModelConfig(backbone="vit", weights=str(tmp_path / "w.pth")), (96, 96)
    )
    positions = backbone.network.trunk.pos_embedding
    given = whole.encoder.pos_embedding.detach()
    assert positions.shape == (1, 1 + 9, 768)
    assert torch.equal(positions[:, 0], given[:, 0])
    assert torch.allclose(positions[0, 5], given[0, 25], atol=1e-5)  # the middle of 3 and of 7
    with torch.no_grad():
        assert backbone.network(torch.randn(1, 3, 96, 96)).shape == (1, 768, 3, 3)


def test_vits_positions_have_rows_and_columns(tmp_path: Path) -> None:
    whole = vit_b_32(weights=None)
    given = whole.encoder.pos_embedding.data[0]  # 7 x 7 behind the class token
    given[1:, 0] = torch.arange(7.0).repeat_interleave(7)  # the row
    given[1:, 1] = torch.arange(7.0).repeat(7)  # the column
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    config = ModelConfig(backbone="vit", weights=str(tmp_path / "w.pth"))
    backbone = create_backbone(config, (96, 160))
    positions = backbone.network.trunk.pos_embedding[0]
    assert positions.shape == (1 + 3 * 5, 768)
    assert torch.equal(positions[0], given[0])
    rows, columns = positions[1:, 0].view(3, 5), positions[1:, 1].view(3, 5)
    assert torch.allclose(rows, rows[:, :1].expand(3, 5), atol=1e-4)
    assert torch.allclose(columns, columns[:1].expand(3, 5), atol=1e-4)
    assert (rows.diff(dim=0) > 1).all()
    assert (columns.diff(dim=1) > 1).all()
    with torch.no_grad():
        assert backbone.network(torch.randn(1, 3, 96, 160)).shape == (1, 768, 3, 5)


def test_a_backbone_without_a_head_reads_no_weights_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored features must not cost the reading of hundreds of megabytes at every start."""

    def read(weights: Weights) -> None:
        raise AssertionError(weights.file)

    monkeypatch.setattr(Weights, "read", read)
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    for name in ("efficientnet-lite0", "vit"):
        config = ModelConfig(backbone=name, weights=str(file))
        assert create_backbone(config, (SIZE, SIZE)).head_state() == {}
    with pytest.raises(AssertionError):
        create_backbone(
            ModelConfig(backbone="deeplab", weights=str(file)), (SIZE, SIZE)
        ).head_state()
