"""From predictions to what a picture of them shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from squeeze_cli.config.record import RunRecord
from squeeze_cli.data.samples import Sample
from squeeze_cli.inference.predictions import PredictedMask
from squeeze_cli.reports.picture_column import PictureColumn
from squeeze_cli.reports.tables import fixed, number, percent


def picture_column(sample: Sample, predictions: Sequence[PredictedMask]) -> PictureColumn:
    """One image with its ground truth and each run's prediction, at the size of the masks."""
    truth = predictions[0].truth
    height, width = truth.shape
    image, _ = sample.load()
    square = image.resize((width, height), Image.Resampling.BILINEAR).convert("RGB")
    return PictureColumn(
        name=sample.name,
        pixels=np.asarray(square),
        masks=[truth, *(prediction.predicted for prediction in predictions)],
        notes=["", *(f"IoU {percent(prediction.iou)}" for prediction in predictions)],
    )


def row_title(record: RunRecord) -> str:
    """A run's row: what it is, and a rate that says whether it is measured or nominal."""
    quantizer = record.quantizer
    if quantizer is None or not quantizer.code_sizes:
        return "baseline" if record.kind == "baseline" else "none"
    if record.measured is not None:
        return f"{quantizer.type}\n{fixed(record.measured.test.bits_per_vector, 2)} measured bits"
    return f"{quantizer.type}\n{number(quantizer.nominal_bits_per_vector)} nominal bits"
