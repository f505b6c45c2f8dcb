"""The run record: typed, read from disk and written back without a change."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from squeeze_cli.config import record as config_record
from squeeze_cli.config.record import FinishedRecord, RunRecord, SplitMetrics
from squeeze_cli.errors import SqueezeError
from squeeze_cli.reports.comparison import ComparisonRow
from tests.conftest import ROOT
from tests.records import measured, record

OLDER = sorted((Path(__file__).parents[1] / "inference" / "older_runs").glob("*/run.json"))


def read(folder: Path, content: dict[str, Any]) -> RunRecord:
    file = folder / "run.json"
    file.write_text(json.dumps({"schema_version": 1, **content}))
    return RunRecord.read(file)


@pytest.mark.parametrize("file", OLDER, ids=lambda file: file.parent.name)
def test_an_older_record_comes_back_as_it_was(file: Path) -> None:
    content = json.loads(file.read_text())
    made = FinishedRecord.read(file)
    written = json.loads(made.to_json(content["updated"]))
    assert written == content
    assert list(written) == list(content)
    assert made.model.backbone == content["model"]["backbone"]
    assert made.measured is not None
    assert made.measured.decoder.total == sum(content["measured"]["decoder"].values())


def test_what_was_never_set_is_left_out_and_none_is_null(tmp_path: Path) -> None:
    made = read(tmp_path, {**record(0.5), "digest": None})
    written = json.loads(made.to_json("now"))
    assert "measured" not in written
    assert written["digest"] is None
    assert written["updated"] == "now"


def test_numbers_that_are_not_finite_are_null() -> None:
    metrics = SplitMetrics(
        loss=float("nan"), vq_loss=float("inf"), iou=float("nan"), accuracy=1,
        per_class_iou=[float("nan"), 0.5], codebook_usage=[0.5],
    )  # fmt: skip
    assert json.loads(metrics.model_dump_json(exclude_unset=True)) == {
        "loss": None, "vq_loss": None, "iou": None, "accuracy": 1, "per_class_iou": [None, 0.5],
        "codebook_usage": [0.5],
    }  # fmt: skip
    with pytest.raises(ValidationError):
        metrics.codebook_usage = [float("nan")]  # a count has no NaN


def test_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    made = record(0.5)
    made["model"]["colour"] = "red"
    assert read(tmp_path, {**made, "weather": {"rain": True}}) == read(tmp_path, record(0.5))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("seed", "7", "seed must be a whole number"),
        ("epochs.done", 2.5, "epochs.done must be a whole number"),
        ("metrics.val.iou", "high", "metrics.val.iou must be a number"),
        ("seconds.total", None, "seconds.total must be a number"),
        ("measured.test.coding", "zip", "measured.test.coding must be 'prior' or 'packed'"),
        ("data.skipped", {}, "data.skipped must be a list"),
        ("kind", ..., "kind is missing"),
    ],
)
def test_a_damaged_field_is_one_line_with_its_name(
    tmp_path: Path, path: str, value: Any, told: str
) -> None:
    made = record(0.5, measured=measured(3.0))
    *sections, name = path.split(".")
    place = made
    for section in sections:
        place = place[section]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    with pytest.raises(SqueezeError) as caught:
        read(tmp_path, made)
    assert str(caught.value) == (
        f"{tmp_path / 'run.json'} is damaged ({told}): train the run again."
    )


def test_a_finished_record_has_a_model(tmp_path: Path) -> None:
    read(tmp_path, record(0.5, model=None))
    with pytest.raises(SqueezeError, match=r"is damaged \(model must be"):
        FinishedRecord.read(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("heading", "models"),
    [
        ("Metrics of a split", (SplitMetrics,)),
        ("`measured` has", (config_record.MeasuredSplit, config_record.DecoderBytes)),
        ("## `squeeze compare", (ComparisonRow,)),
        (
            "",
            (
                RunRecord, config_record.Epochs, config_record.Seconds, config_record.Measured,
                config_record.DataDescription, config_record.ModelDescription,
                config_record.QuantizerDescription,
            ),
        ),
    ],
    ids=["metrics", "measured", "compare", "record"],
)  # fmt: skip
def test_the_page_describes_every_field(heading: str, models: tuple[type[BaseModel], ...]) -> None:
    """Each has a place below its own heading; a table of fields names no other."""
    text = (ROOT / "docs" / "run-record.md").read_text(encoding="utf-8")
    below = text[text.index(heading) + len(heading) :]
    section = re.split(r"^## |^Metrics of a split", below, flags=re.M)[0] if heading else text
    fields = {name for model in models for name in model.model_fields}
    assert fields <= set(re.findall(r"`(\w+)`", section))
    if models == (SplitMetrics,):
        table = "".join(re.findall(r"^\|([^|]*)\|", section, re.M))
        assert set(re.findall(r"`(\w+)`", table)) | {"loss_ce", "loss_dice", "loss_focal"} == fields
