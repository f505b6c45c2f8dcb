from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from squeeze_cli.config.resolve import check_resumed, resolve_config
from squeeze_cli.config.schema import ExperimentConfig, QuantizerConfig, resolve_defaults, validate
from squeeze_cli.config.yaml_files import from_mapping, load_experiment, to_mapping, write_config
from squeeze_cli.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_mapping_and_back() -> None:
    config = resolve_defaults(ExperimentConfig(quantizer=QuantizerConfig(levels=(4, 4))))
    assert from_mapping(ExperimentConfig, to_mapping(config), "test") == config


def test_file_and_back(tmp_path: Path) -> None:
    config = resolve_defaults(ExperimentConfig(name="äpfel", quantizer=QuantizerConfig("rvq")))
    write_config(tmp_path / "config.yaml", config)
    assert load_experiment(tmp_path / "config.yaml", None) == config
    assert config.quantizer.codebook_size == 256
    assert config.model.num_classes == 21


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.yaml",
        "experiments:\n  one:\n    quantizer: {type: lfq, codebook_size: 64}\n"
        "    training: {epochs: 3, lr: 1e-2}\n",
    )
    flags = {"config": path, "experiment": "one", "training__epochs": 7}
    config = resolve_config("quantized", flags)
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
    config = resolve_config("quantized", {"config": path})
    assert config.model.backbone == "deeplab"
    assert config.model.add_adapter
    assert config.training == ExperimentConfig().training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantiser: {}", r"Unknown key 'quantiser' in .*did you mean 'quantizer'\?"),
        ("quantizer: {codebook: 4}", r"Unknown key 'codebook' .*did you mean 'codebook_size'\?"),
        ("training: {epochs: many}", r"training.epochs must be int, not 'many'"),
        ("training: {epochs: 2.5}", r"training.epochs must be int, not 2.5"),
        ("training: {epochs: true}", r"training.epochs must be int, not True"),
        ("model: {add_adapter: 1}", r"model.add_adapter must be bool, not 1"),
        ("model: [1]", r"model must be a mapping"),
        ("quantizer: {levels: 3}", r"quantizer.levels must be a list"),
        ("quantizer: {type: vq, levels: [4, 4]}", r"quantizer.levels means nothing for type 'vq'"),
        ("{", r"is no valid YAML"),
        ("- 1", r"must hold a mapping"),
        ("experiments: {a: {}}", r"add --experiment with one of a"),
    ],
)
def test_files_that_mean_nothing(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_experiment(write(tmp_path / "c.yaml", text), None)


def test_unknown_experiment_and_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "experiments: {first: {}}")
    with pytest.raises(UsageError, match=r"did you mean first\?"):
        load_experiment(path, "frist")
    with pytest.raises(UsageError, match="Cannot read"):
        load_experiment(tmp_path / "none.yaml", None)
    with pytest.raises(UsageError, match="add --config FILE"):
        resolve_config("quantized", {"experiment": "first"})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"quantizer__levels": (8, 5)}, "--levels means nothing with --quantizer vq.*fsq"),
        ({"quantizer__type": "lfq", "quantizer__codebook_size": 500}, "256 or 512"),
        ({"quantizer__type": "lfq", "quantizer__decay": 0.5}, "vq or rvq"),
        ({"quantizer__type": "rvq", "quantizer__num_quantizers": 0}, "1 or more"),
        ({"quantizer__type": "fsq", "quantizer__levels": (8, 1)}, "3 or more"),
        ({"quantizer__type": "fsq", "quantizer__levels": (1024, 1024, 3)}, "1048576"),
        ({"quantizer__type": "none", "quantizer__bottleneck_dim": 3}, "means nothing"),
        ({"quantizer__codebook_size": 1}, "between 2 and"),
        ({"quantizer__decay": 1.0}, "--decay"),
        ({"quantizer__vq_loss_weight": -1.0}, "--vq-loss-weight"),
        ({"quantizer__commitment_weight": float("nan")}, "--commitment-weight"),
        ({"model__num_classes": 2}, "3 to 254"),
        ({"model__class_weights": (1.0, 2.0)}, "gives 2 weights"),
        ({"model__class_weights": (0.0, 0.0, 0.0)}, "not all 0"),
        ({"model__feature_dim": 0}, "--feature-dim"),
        ({"training__epochs": 0}, "--epochs"),
        ({"training__batch_size": 1}, "--batch-size"),
        ({"training__lr": float("nan")}, "--lr"),
        ({"training__max_batches": 0}, "--max-batches"),
        ({"data__image_size": 8}, "--image-size"),
        ({"data__subset_size": 1}, "--subset-size"),
        ({"data__dataset": "synthetic", "data__data_dir": "x"}, "--dataset synthetic"),
        ({"data__use_cache": False, "data__cache_dir": "x"}, "--no-cache"),
    ],
)
def test_flags_that_mean_nothing(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_config("quantized", flags)


def test_a_resumed_run_keeps_its_configuration() -> None:
    stored = resolve_config("quantized", {"training__epochs": 5})
    check_resumed(stored, {"training__epochs": 5, "name": "x", "resume": True})
    with pytest.raises(UsageError, match="--epochs 6 differs from the run's own 5"):
        check_resumed(stored, {"training__epochs": 6})
    with pytest.raises(UsageError, match="--overwrite means nothing with --resume"):
        check_resumed(stored, {"overwrite": True})


def test_every_example_is_valid() -> None:
    import yaml

    examples = yaml.safe_load((ROOT / "examples.yaml").read_text())["experiments"]
    for name in examples:
        config = resolve_defaults(load_experiment(ROOT / "examples.yaml", name))
        validate(config)
