from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from squeeze_cli.config.resolve import (
    check_resumed,
    load_experiment,
    resolve_config,
    resolve_defaults,
    switched_on,
    with_values,
    write_config,
)
from squeeze_cli.config.schema import ExperimentConfig, QuantizerConfig
from squeeze_cli.config.validation import check_together, parse
from squeeze_cli.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_mapping_and_back() -> None:
    config = resolve_defaults(ExperimentConfig(quantizer=QuantizerConfig(levels=(4, 4))))
    assert parse(config.model_dump(mode="json")) == config


def test_file_and_back(tmp_path: Path) -> None:
    config = resolve_defaults(ExperimentConfig(name="äpfel", quantizer=QuantizerConfig(type="rvq")))
    write_config(tmp_path / "config.yaml", config)
    assert load_experiment(tmp_path / "config.yaml", None) == config
    assert config.quantizer.codebook_size == 256
    assert config.model.num_classes == 3


@pytest.mark.parametrize(
    ("values", "encoder", "reconstruction", "rate", "size", "factor"),
    [
        ({}, "conv", 0.5, 0.03, 512, 1.0),
        ({"quantizer.codes": "task"}, "conv", 0.0, None, 8, 1.0),
        ({"quantizer.codes": "task", "quantizer.type": "vq"}, "conv", 0.0, 0.1, 8, 1.0),
        ({"quantizer.codes": "plain"}, "linear", 0.0, 0.0, 512, 0.3),
        ({"quantizer.type": "rvq"}, "conv", 0.5, 0.0, 256, 1.0),
        ({"quantizer.type": "pq", "quantizer.codes": "task"}, "conv", 0.0, 0.1, 8, 1.0),
        ({"quantizer.type": "fsq"}, "conv", 0.5, None, 512, 1.0),
        ({"quantizer.type": "fsq", "quantizer.codes": "task"}, "conv", 0.0, None, 8, 1.0),
        ({"quantizer.type": "none"}, "linear", None, None, 512, 1.0),
        ({"model.encoder": "linear", "quantizer.rate_weight": 0.0}, "linear", 0.5, 0.0, 512, 1.0),
        ({"quantizer.codes": "task", "quantizer.codebook_size": 4}, "conv", 0.0, 0.1, 4, 1.0),
        ({"model.add_adapter": True}, "conv", None, 0.03, 512, 1.0),
        ({"model.loss_type": "reconstruction"}, "linear", None, 0.0, 512, 0.3),
    ],
)
def test_codes_set_the_defaults_of_other_options(
    values: dict[str, object], encoder: str, reconstruction: float | None, rate: float | None,
    size: int, factor: float, tmp_path: Path,
) -> None:  # fmt: skip
    config = resolve_config("quantized", values)
    assert config.model.encoder == encoder
    assert config.model.reconstruction_weight == reconstruction
    assert config.quantizer.rate_weight == rate
    assert config.quantizer.codebook_size == size
    assert config.quantizer.encoder_lr_factor == factor
    if config.quantizer.type == "fsq":
        is_task = config.quantizer.codes == "task"
        assert config.quantizer.levels == ((3, 3) if is_task else (8, 5, 5, 5))
    write_config(tmp_path / "config.yaml", config)
    assert load_experiment(tmp_path / "config.yaml", None) == config


@pytest.mark.parametrize(
    ("values", "quantizer"),
    [
        ({}, "vq"),
        ({"quantizer.codes": "task"}, "fsq"),
        ({"quantizer.codes": "task", "quantizer.code_stride": 2}, "fsq"),
        ({"quantizer.codes": "task", "quantizer.levels": (5,)}, "fsq"),
        ({"quantizer.codes": "task", "quantizer.type": "vq"}, "vq"),
        ({"quantizer.codes": "task", "quantizer.codebook_size": 16}, "vq"),
        ({"quantizer.codes": "task", "quantizer.target_bits": 1.0}, "dct"),
        ({"quantizer.codes": "task", "quantizer.step_size": 1.0}, "dct"),
        (
            {
                "quantizer.codes": "task",
                "quantizer.codebook_size": 16,
                "quantizer.target_bits": 1.0,
            },
            "vq",
        ),
    ],
)
def test_task_codes_are_those_of_fsq_or_dct_unless_something_else_is_asked_for(
    values: dict[str, object], quantizer: str
) -> None:
    config = resolve_config("quantized", values)
    assert config.quantizer.type == quantizer
    assert resolve_defaults(config).quantizer == config.quantizer


def test_a_baseline_has_the_encoder_that_it_is_given() -> None:
    assert resolve_config("baseline", {}).model.encoder == "linear"
    assert resolve_config("baseline", {"model.encoder": "conv"}).model.encoder == "conv"


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.yaml",
        "experiments:\n  one:\n    quantizer: {type: lfq, codebook_size: 64}\n"
        "    training: {epochs: 3, lr: 1e-2}\n",
    )
    config = resolve_config("quantized", {"training.epochs": 7}, str(path), "one")
    assert config.training.epochs == 7
    assert config.training.lr == 0.01  # YAML reads 1e-2 as text
    assert config.quantizer.codebook_size == 64
    assert config.training.batch_size == 4


def test_an_older_file_without_the_newer_sections(tmp_path: Path) -> None:
    """The older configs' own field names, dumped whole: fields of other quantizers as they were."""
    path = write(
        tmp_path / "old.yaml",
        "quantizer:\n  type: fsq\n  codebook_size: 512\n  bottleneck_dim: 64\n  decay: 0.99\n"
        "  commitment_weight: 0.25\n  levels: [8, 5, 5, 5]\n  entropy_loss_weight: 0.1\n"
        "  diversity_gamma: 0.1\n  spherical: false\n  num_quantizers: 4\n"
        "logger:\n  use_clearml: false\n  use_tensorboard: true\n  project_name: p\n"
        "  task_name: t\n  credentials_file: clearml_credentials.yaml\n"
        "model:\n  backbone: deeplab\n  num_classes: 3\n  freeze_backbone: true\n"
        "  unfreeze_last_layer: false\n  vit_weights: IMAGENET1K_V1\n"
        "  deeplab_weights: COCO_WITH_VOC_LABELS_V1\n  add_adapter: true\n  feature_dim: null\n"
        "  loss_type: combined\n  class_weights: null\n",
    )
    config = resolve_config("quantized", {}, str(path))
    assert config.model.backbone == "deeplab"
    assert config.model.add_adapter
    assert config.training == ExperimentConfig().training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantiser: {}", r"Unknown key 'quantiser' in .*did you mean 'quantizer'\?"),
        ("quantizer: {codebook: 4}", r"Unknown key 'codebook' .*did you mean 'codebook_size'\?"),
        (
            "training: {epochs: many}",
            r"training.epochs must be a whole number .such as 10., not 'many'",
        ),
        (
            "training: {epochs: 2.5}",
            r"training.epochs must be a whole number .such as 10., not 2.5",
        ),
        (
            "training: {epochs: true}",
            r"training.epochs must be a whole number .such as 10., not True",
        ),
        ("model: {add_adapter: 1}", r"model.add_adapter must be true or false, not 1"),
        (
            "model: {freeze_backbone: false}",
            r"model.freeze_backbone must be true \(unfreeze_last_layer",
        ),
        ("modle.x: 1", r"Unknown key 'modle.x' in .*c.yaml: "),
        ("training.epochs: 5", r"Unknown key 'training.epochs' in .*c.yaml: "),
        ("model: {a.b: 1}", r"Unknown key 'a.b' in .*c.yaml: model: "),
        ("model: {freeze_backbone: 1}", r"model.freeze_backbone must be true or false, not 1"),
        ("model: {class_weights: [true, 1, 2]}", r"model.class_weights must hold numbers"),
        ("model: [1]", r"model must be a mapping"),
        ("quantizer: {levels: 3}", r"quantizer.levels must be a list"),
        ("quantizer: {type: vq, levels: [4, 4]}", r"quantizer.levels has no effect for type 'vq'"),
        ("quantizer: {levels: [4, x]}", r"each of quantizer.levels must be a whole number"),
        ("quantizer: {type: vqq}", r"Unknown quantizer 'vqq': did you mean 'vq'\?"),
        (
            "data: {dataset: pets}",
            "Unknown dataset 'pets': choose one of folder, oxford-pet, voc, synthetic",
        ),
        ("training: {device: cuda:0}", r"training.device must be 'auto', 'cpu', 'cuda' or 'mps'"),
        ("training: {devices: 0}", r"training.devices must be 1 or more, or auto"),
        ("training: {epochs: 0}", r"c.yaml: training.epochs must be 1 or more"),
        ("data: {image_size: 64}\ndata: {}", r"c.yaml, line 2: 'data' occurs twice"),
        ("data: {image_size: 64,\n image_size: 96}", r"c.yaml, line 2: 'image_size' occurs"),
        ("{", r"c.yaml, line 1 is not valid YAML: "),
        ("- 1", r"must hold a mapping"),
        ("model: {1: 2}", r"Unknown key '1' in .*c.yaml: model"),
        ("experiments: {a: {}}", r"add --experiment with one of a"),
    ],
)
def test_files_that_mean_nothing(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_experiment(write(tmp_path / "c.yaml", text), None)


def test_unknown_experiment_and_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "experiments: {first: {}}")
    with pytest.raises(UsageError, match=r"did you mean 'first'\?"):
        load_experiment(path, "frist")
    with pytest.raises(UsageError, match="Cannot read"):
        load_experiment(tmp_path / "none.yaml", None)
    with pytest.raises(UsageError, match="add --config FILE"):
        resolve_config("quantized", {}, None, "first")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"quantizer.levels": (8, 5)}, "--levels has no effect with --quantizer vq.*fsq"),
        ({"quantizer.type": "lfq", "quantizer.codebook_size": 500}, "256 or 512"),
        ({"quantizer.type": "lfq", "quantizer.decay": 0.5}, "vq or rvq"),
        ({"quantizer.type": "rvq", "quantizer.num_quantizers": 0}, "1 or more"),
        ({"quantizer.type": "fsq", "quantizer.levels": (8, 1)}, "3 or more"),
        ({"quantizer.type": "fsq", "quantizer.levels": (1024, 1024, 3)}, "1048576"),
        ({"quantizer.type": "none", "quantizer.bottleneck_dim": 3}, "has no effect"),
        ({"quantizer.codebook_size": 1}, "--codebook-size must be 2 or more, not 1"),
        ({"quantizer.codebook_size": 2**21}, "--codebook-size must be 1048576 or less"),
        ({"quantizer.decay": 1.0}, r"--decay must be below 1.* .such as 0.99., not 1.0"),
        ({"quantizer.vq_loss_weight": -1.0}, "--vq-loss-weight"),
        ({"quantizer.commitment_weight": float("nan")}, "--commitment-weight"),
        ({"model.num_classes": 1}, "--num-classes must be 2 or more, not 1"),
        ({"model.num_classes": 255}, "--num-classes must be 254 or less"),
        ({"model.class_weights": (1.0, 2.0)}, "gives 2 weights"),
        ({"model.class_weights": (0.0, 0.0, 0.0)}, "--class-weights must not be all 0"),
        ({"model.feature_dim": 0}, "--feature-dim"),
        ({"training.epochs": 0}, "--epochs"),
        ({"training.batch_size": 1}, "--batch-size"),
        ({"training.lr": float("nan")}, "--lr"),
        ({"training.max_batches": 0}, "--max-batches"),
        ({"data.image_size": 8}, "--image-size must be a side in pixels .* 32 to 8192, not 8"),
        ({"data.image_size": "64x8"}, "--image-size must be a side"),
        ({"data.image_size": "64x64x64"}, "height x width, such as 480x640"),
        ({"data.image_size": "64x"}, "--image-size must be a side"),
        ({"data.image_size": 1000000}, "--image-size must be a side"),
        ({"data.fit": "stretch"}, "--fit must be 'squash', 'crop' or 'pad'"),
        ({"data.subset_size": 1}, "--subset-size"),
        ({"data.dataset": "synthetic", "data.data_dir": "x"}, "--dataset synthetic"),
        ({"data.use_cache": False, "data.cache_dir": "x"}, "--no-cache"),
    ],
)
def test_flags_that_mean_nothing(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_config("quantized", flags)


def test_a_resumed_run_keeps_its_configuration() -> None:
    stored = resolve_config("quantized", {"training.epochs": 5})
    check_resumed(stored, {"training.epochs": 5, "name": "x"})
    with pytest.raises(UsageError, match="--epochs 6 differs from the run's own 5"):
        check_resumed(stored, {"training.epochs": 6})


def test_texts_and_numbers_mean_the_same(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.yaml",
        "quantizer: {levels: '8,6,5', decay: 9e-1}\n"
        "training: {epochs: '3', seed: 7.0, precision: 32, devices: '2'}\n"
        "name: 5\ndata:\n",
    )
    with pytest.raises(UsageError, match=r"quantizer\.levels has no effect"):
        load_experiment(path, None)
    write(path, path.read_text().replace("{levels", "{type: fsq, levels").replace("9e-1", "0.99"))
    config = load_experiment(path, None)
    assert config.quantizer.levels == (8, 6, 5)
    assert (config.training.epochs, config.training.seed) == (3, 7)
    assert (config.training.precision, config.training.devices, config.name) == ("32", 2, "5")
    assert config.data == ExperimentConfig().data


@pytest.mark.parametrize(
    ("given", "stored", "size_px"),
    [(448, 448, (448, 448)), ("96", 96, (96, 96)), ("64x64", 64, (64, 64)),
     ("480x640", "480x640", (480, 640))],
)  # fmt: skip
def test_image_size_is_a_side_or_height_and_width(
    tmp_path: Path, given: object, stored: object, size_px: tuple[int, int]
) -> None:
    data = resolve_config("quantized", {"data.image_size": given}).data
    assert (data.image_size, data.size_px) == (stored, size_px)
    write_config(tmp_path / "c.yaml", ExperimentConfig(data=data))
    assert load_experiment(tmp_path / "c.yaml").data == data


def test_a_configuration_cannot_be_changed_and_values_are_checked() -> None:
    config = ExperimentConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]
    changed = with_values(config, {"training.epochs": 3, "name": "it", "training.lr": 0.1})
    assert (changed.training.epochs, changed.training.lr, changed.name) == (3, 0.1, "it")
    assert changed.data == config.data
    assert config == ExperimentConfig()
    with pytest.raises(UsageError, match="--epochs must be 1 or more"):
        with_values(config, {"training.epochs": 0})


def test_an_example_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_config("quantized", {}, "quickstart").data.dataset == "synthetic"
    for name, experiment, message in (
        ("quickstrat", None, "neither a file nor an example: did you mean 'quickstart'"),
        ("quickstart", "vq", "leave --experiment out"),
        ("quickstart-baseline", None, "run it with `squeeze baseline`"),
        ("quickstart.yaml", None, "Cannot read quickstart.yaml"),
        ("here/quickstart", None, "Cannot read here/quickstart"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve_config("quantized", {}, name, experiment)
    (tmp_path / "quickstart").mkdir()  # such as the run of this name, in the folder of runs
    assert resolve_config("quantized", {}, "quickstart").data.dataset == "synthetic"
    (tmp_path / "quickstart").rmdir()
    write(tmp_path / "quickstart", "data: {image_size: 64}")
    assert resolve_config("quantized", {}, "quickstart").data.image_size == 64


def test_the_sdks_switch_for_offline_tasks_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = {"logger.use_clearml": True}
    for value, offline in (("1", True), ("off", False), ("", False)):
        monkeypatch.setenv("CLEARML_OFFLINE_MODE", value)
        assert switched_on("CLEARML_OFFLINE_MODE") == offline
        assert resolve_config("quantized", tracked).logger.clearml_offline == offline
        assert not resolve_config("quantized", {}).logger.clearml_offline
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    online = resolve_config("quantized", {**tracked, "logger.clearml_offline": False})
    assert not online.logger.clearml_offline


def test_every_example_is_valid() -> None:
    import yaml

    examples = yaml.safe_load((ROOT / "examples.yaml").read_text())["experiments"]
    for name in examples:
        config = resolve_defaults(load_experiment(ROOT / "examples.yaml", name))
        check_together(config)
