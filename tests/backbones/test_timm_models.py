"""timm's models: layers, tokens, sizes, statistics, and weights from stand-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.backbones.timm_models import TimmBackbone
from squeeze_cli.config.fields import Size
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Statistics
from squeeze_cli.errors import SqueezeError, UsageError
from tests.contracts.test_backbones import FAMILIES

SIZE = (64, 96)
VIT = "timm:test_vit"


def make(
    name: str = VIT, size_px: Size = SIZE, weights: str = "none", **model: Any
) -> FrozenBackbone:
    return create_backbone(ModelConfig(backbone=name, weights=weights, **model), size_px)


def images(size_px: Size = SIZE) -> Tensor:
    return torch.randn(2, 3, *size_px, generator=torch.Generator().manual_seed(0))


def whole(name: str, seed: int = 3, **options: Any) -> Any:
    torch.manual_seed(seed)
    model = timm.create_model(name, **options).eval()
    for parameter in model.parameters():  # scales that start at 0 or 1 would hide mistakes
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(("name", "count"), FAMILIES.items())
def test_layers_are_counted_from_both_ends(name: str, count: int) -> None:
    last = make(name)
    assert last.layers == (count - 1,)
    assert make(name, layer=(count - 1,)).layers == last.layers
    for layer in (count, -count - 1):
        with pytest.raises(UsageError, match=rf"has layers 0 to {count - 1}, or -{count} to -1"):
            make(name, layer=(layer,))
    with pytest.raises(UsageError, match="name each once"):
        make(name, layer=(-1, count - 1))


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:vit_little_patch16_reg4_gap_256"])
def test_features_are_the_normalized_patch_tokens(name: str) -> None:
    """Against the model's own forward pass: class and register tokens are dropped, axes in order."""
    backbone = make(name)
    model = backbone.network.trunk.model
    tokens = model.forward_features(images())[:, model.num_prefix_tokens :]  # type: ignore[operator]
    features = backbone.network(images())
    rows, columns = SIZE[0] // 16, SIZE[1] // 16
    assert features.shape == (2, backbone.feature_dim, rows, columns)
    if name == VIT:  # the other normalizes behind its pooling
        for row in range(rows):
            torch.testing.assert_close(features[:, :, row, 2], tokens[:, row * columns + 2])
    else:
        expected = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("name", ["timm:test_convnext", "timm:test_resnet"])
def test_maps_of_stages_have_their_own_stride(name: str) -> None:
    """Layer 1 and the last one are the maps of `features_only`."""
    maps = timm.create_model(name.removeprefix("timm:"), features_only=True)
    reductions, channels = maps.feature_info.reduction(), maps.feature_info.channels()
    for layer in (1, len(channels) - 1):
        backbone = make(name, layer=(layer,))
        assert (backbone.stride, backbone.feature_dim) == (reductions[layer], channels[layer])
        assert backbone.network(images()).shape[2:] == tuple(s // reductions[layer] for s in SIZE)
    with pytest.raises(UsageError, match="have maps of 16x24, 8x12: name layers of one size"):
        make(name, layer=(-4, -3) if name.endswith("next") else (1, 2))


def test_several_layers_stand_behind_one_another_in_order() -> None:
    single = [make(layer=(layer,)).network(images()) for layer in (1, 3, 5)]
    backbone = make(layer=(-1, 1, 3))
    assert backbone.layers == (1, 3, 5)
    assert backbone.feature_dim == 3 * 64
    assert torch.equal(backbone.network(images()), torch.cat(single, dim=1))
    assert not torch.equal(single[0], single[1])


def test_images_are_prepared_as_the_weights_expect() -> None:
    half = (0.5, 0.5, 0.5)
    assert make().statistics == Statistics(half, half, "bicubic")
    assert make("timm:test_resnet").statistics == Statistics(half, half, "bilinear")
    imagenet = Statistics(IMAGENET_MEAN, IMAGENET_STD, "bicubic")
    assert make("timm:test_efficientnet").statistics == imagenet
    assert TimmBackbone.own_image_size(VIT) == "160"
    assert TimmBackbone.own_image_size("timm:vit_small_patch14_dinov2") == "518"


def test_a_size_that_patches_do_not_cover_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"80x100 cannot .* have 16 px: use 80x96 or 96x112"):
        make(size_px=(80, 100))


def test_a_model_of_one_size_says_so() -> None:
    with pytest.raises(UsageError, match=r"64x96 images .*: its own --image-size is 224\."):
        make("timm:efficientformer_l1")
    assert make("timm:efficientformer_l1", size_px=(224, 224)).vectors_per_image == 49


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnt18", "did you mean timm:resnet18"),
        ("timm:qqqqqq", r"no model 'qqqqqq': `squeeze backbones"),
        ("timm:resnet18.tv_in2k", "did you mean 'tv_in1k'"),
        ("timm:timm/resnt18", "timm cannot make 'timm/resnt18'"),
        pytest.param(
            "timm:gemma4_vit_167m",
            "gives no dense features",
            marks=pytest.mark.skipif(not timm.is_model("gemma4_vit_167m"), reason="older timm"),
        ),
    ],
)
def test_names_that_cannot_be_are_wrong_usage(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(name, size_px=(768, 768))


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:vit_little_patch16_reg4_gap_256"])
def test_the_last_block_of_a_vit_can_be_trained(name: str) -> None:
    features = make(name).network(images())
    network = make(name, unfreeze_last_layer=True).network
    tokens = network.trunk(images())
    assert tokens.dim() == 3
    torch.testing.assert_close(network.last_layer(tokens), features)
    names = {n for n, _ in network.last_layer.named_parameters()}
    assert names
    assert all(n.startswith(("block.", "norm.")) for n in names)


@pytest.mark.parametrize(("name", "layer"), [("timm:test_resnet", -1), (VIT, -2)])
def test_others_refuse_to_train_their_last_layer(name: str, layer: int) -> None:
    with pytest.raises(UsageError, match="--unfreeze-last-layer cannot be used"):
        make(name, layer=(layer,), unfreeze_last_layer=True)


def expected_features(model: Any, size_px: Size = SIZE) -> Tensor:
    with torch.no_grad():
        (maps,) = model.forward_intermediates(
            images(size_px), indices=1, norm=True, intermediates_only=True
        )
    return maps  # type: ignore[no-any-return]


@pytest.mark.parametrize("classes", [1000, 7, 0])
@pytest.mark.parametrize("name", ["test_vit3", "test_convnext", "test_efficientnet", "test_resnet"])
def test_weights_of_a_file_are_loaded_whatever_its_classifier(
    name: str, classes: int, tmp_path: Path
) -> None:
    model = whole(name, num_classes=classes)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    backbone = make(f"timm:{name}", (160, 160), weights=str(tmp_path / "w.safetensors"))
    expected = expected_features(model, (160, 160))
    torch.testing.assert_close(backbone.network(images((160, 160))), expected)
    assert backbone.head_state() == {}
    assert not backbone.random_weights


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("module.", "state_dict"),
        ("module.backbone.", "teacher"),
        ("_orig_mod.", "model"),
        ("", "model_ema"),
    ],
)
def test_what_training_wraps_around_a_model_is_taken_off(
    prefix: str, key: str, tmp_path: Path
) -> None:
    model = whole("test_vit", num_classes=0)
    state = {prefix + name: tensor.half() for name, tensor in model.state_dict().items()}
    if "backbone" in prefix:  # DINO's own head
        state["module.head.mlp.0.weight"] = torch.zeros(2, 2)
    torch.save({key: state, "epoch": 3}, tmp_path / "w.pth")
    backbone = make(size_px=(160, 160), weights=str(tmp_path / "w.pth"))
    model.load_state_dict({n: t.half() for n, t in model.state_dict().items()})
    torch.testing.assert_close(
        backbone.network(images((160, 160))), expected_features(model, (160, 160))
    )


def test_positions_are_interpolated_to_the_image_size(tmp_path: Path) -> None:
    model = whole("test_vit")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    backbone = make(weights=str(tmp_path / "w.pth"))
    dynamic = timm.create_model("test_vit", dynamic_img_size=True).eval()
    dynamic.load_state_dict(model.state_dict())
    torch.testing.assert_close(backbone.network(images()), expected_features(dynamic))


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "another"])
def test_weights_that_do_not_fit_are_refused(change: str, tmp_path: Path) -> None:
    state = whole("test_convnext" if change == "another" else "test_vit").state_dict()
    if change == "missing":
        del state["blocks.2.mlp.fc1.weight"]
    elif change == "unexpected":
        state["blocks.9.mlp.fc1.weight"] = torch.zeros(2, 2)
    elif change == "shape":
        state["blocks.2.mlp.fc1.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "w.pth")
    backbone = make(weights=str(tmp_path / "w.pth"))
    with pytest.raises(
        SqueezeError, match=r"w\.pth do not fit timm:test_vit at --image-size 64x96"
    ):
        _ = backbone.network


def write_model(folder: Path, architecture: str, model: Any, **args: Any) -> None:
    """A model's folder as timm's `save_for_hf` writes it."""
    folder.mkdir()
    config = {"architecture": architecture, "model_args": args, "pretrained_cfg": {
        "input_size": [3, 96, 96], "fixed_input_size": True, "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "num_classes": 0, "classifier": "head",
    }}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")


def test_a_model_of_a_folder_brings_its_own_settings_and_weights(tmp_path: Path) -> None:
    """One like SigLIP's: no class token, pooling by attention."""
    args = {"class_token": False, "global_pool": "map", "img_size": 96, "num_classes": 0}
    model = whole("test_vit", **args)
    write_model(tmp_path / "mine", "test_vit", model, **args)
    name = f"timm:local-dir:{tmp_path / 'mine'}"
    assert TimmBackbone.own_image_size(name) == "96"
    backbone = make(name, (96, 96), weights="default")
    assert backbone.statistics == Statistics((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), "bilinear")
    assert backbone.weights.file == tmp_path / "mine" / "model.safetensors"
    torch.testing.assert_close(
        backbone.network(images((96, 96))), expected_features(model, (96, 96))
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hugging Face hub's cache, empty, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_published_weights_come_from_the_hubs_cache(hub: Path) -> None:
    commit = "0" * 40
    repository = hub / "models--timm--test_vit.r160_in1k"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    model = whole("test_vit")
    file = repository / "snapshots" / commit / "model.safetensors"
    save_file(model.state_dict(), file)
    backbone = make(size_px=(160, 160), weights="default")
    assert backbone.weights.file == file
    torch.testing.assert_close(
        backbone.network(images((160, 160))), expected_features(model, (160, 160))
    )


@pytest.mark.usefixtures("hub")
def test_without_a_network_the_message_names_the_fix() -> None:
    with pytest.raises(
        SqueezeError, match=r"Cannot download the weights timm/test_vit.*--weights PATH"
    ):
        _ = make(weights="default").weights
    with pytest.raises(SqueezeError, match=r"Cannot read hf-hub:timm/none .*check the network"):
        make("timm:hf-hub:timm/none")


def test_a_model_without_published_weights_says_so() -> None:
    with pytest.raises(UsageError, match="publishes no weights for botnet50ts_256: give a file"):
        _ = make("timm:botnet50ts_256", (256, 256), weights="default").weights
