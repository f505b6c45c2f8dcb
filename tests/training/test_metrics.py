from __future__ import annotations

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from squeeze_cli.config.record import SplitMetrics
from squeeze_cli.training.metrics import (
    CodebookUsage,
    ReconstructionMetrics,
    SegmentationMetrics,
    as_values,
    flatten,
    make_metrics,
)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for size in (3, 5):
        prediction = torch.randint(0, 3, (size, 4, 7), generator=generator)
        target = torch.randint(0, 2, (size, 4, 7), generator=generator)
        target[0, 0] = 255
        pairs.append((prediction, target))
    return pairs


def test_mean_iou_and_accuracy_are_torchmetrics_own() -> None:
    """Over the whole set; class 3 is in neither predictions nor targets, and does not count."""
    ours = SegmentationMetrics(4)
    iou = MulticlassJaccardIndex(3, average="macro", ignore_index=255)
    accuracy = MulticlassAccuracy(3, average="micro", ignore_index=255)
    for prediction, target in batches():
        for metric in (ours, iou, accuracy):
            metric.update(prediction, target)
    summary = as_values(ours.compute())
    assert summary["iou"] == pytest.approx(float(iou.compute()))
    assert summary["accuracy"] == pytest.approx(float(accuracy.compute()))
    assert len(summary["per_class_iou"]) == 4
    assert summary["per_class_iou"][3] is None


def test_nothing_seen_is_no_mean_iou_of_zero() -> None:
    values = as_values(SegmentationMetrics(3).compute())
    assert SplitMetrics.model_validate(values).model_dump(exclude_unset=True) == {
        "iou": None, "accuracy": None, "per_class_iou": [None, None, None],
    }  # fmt: skip


def test_distortion_is_over_all_vectors_that_count() -> None:
    """Of the whole set, as numpy in float64 computes it, not a mean of the batches' own."""
    generator = torch.Generator().manual_seed(0)
    metric, counted_rows, features, decoded = ReconstructionMetrics(), [], [], []
    for size in (1, 3):
        maps = torch.randn(size, 4, 2, 5, generator=generator)
        noisy = maps + 0.3 * size * torch.randn(size, 4, 2, 5, generator=generator)
        counted = torch.rand(size, 2, 5, generator=generator) > 0.3
        metric.update(maps, noisy, counted)
        counted_rows.append(counted.flatten())
        features.append(maps.permute(0, 2, 3, 1).reshape(-1, 4).double())
        decoded.append(noisy.permute(0, 2, 3, 1).reshape(-1, 4).double())
    kept = torch.cat(counted_rows)
    x, y = torch.cat(features)[kept], torch.cat(decoded)[kept]
    assert 0 < len(x) < len(kept)
    assert as_values(metric.compute()) == pytest.approx(
        {
            "mse": float((x - y).square().mean()),
            "cosine": float(((x * y).sum(1) / x.norm(dim=1) / y.norm(dim=1)).mean()),
            "sqnr_db": float(10 * (x.square().sum() / (x - y).square().sum()).log10()),
        }
    )


def test_half_precision_around_it_does_not_change_the_distortion() -> None:
    maps = torch.randn(2, 768, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        (metric := ReconstructionMetrics()).update(
            maps, maps, torch.ones(2, 7, 7, dtype=torch.bool)
        )
    assert as_values(metric.compute())["cosine"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("scale", "cosine"), [(1e-5, 1.0), (0.0, 0.0)])
def test_cosine_of_tiny_vectors(scale: float, cosine: float) -> None:
    maps = torch.full((1, 16, 2, 2), scale)
    (metric := ReconstructionMetrics()).update(maps, maps, torch.ones(1, 2, 2, dtype=torch.bool))
    assert as_values(metric.compute())["cosine"] == pytest.approx(cosine, abs=1e-5)


def test_codebook_usage_by_level() -> None:
    metric = CodebookUsage((4, 2))
    metric.update(torch.tensor([[[0, 1], [1, 1], [2, 1]]]))
    metric.update(torch.tensor([[[3, 1]]]))
    result = as_values(metric.compute())
    assert result["codebook_usage"] == [1.0, 0.5]
    assert result["codebook_perplexity"] == pytest.approx([4.0, 1.0])
    metric.reset()
    metric.update(torch.zeros(1, 2, 2, dtype=torch.int64))
    assert as_values(metric.compute())["codebook_usage"] == [0.25, 0.5]


def test_one_collection_measures_masks_and_codes_and_is_in_no_checkpoint() -> None:
    metrics = make_metrics(3, (4,), distortion=False)
    codes = torch.tensor([[[0], [1]]])
    losses = {"loss": torch.tensor(1.5, requires_grad=True)}
    for prediction, target in batches():
        metrics.update(
            losses=losses, images=len(target), preds=prediction, target=target, codes=codes
        )
    values = as_values(metrics.compute())
    assert values.pop("loss") == pytest.approx(1.5)
    assert set(values) == {
        "iou", "accuracy", "per_class_iou", "codebook_usage", "codebook_perplexity",
    }  # fmt: skip
    assert values["codebook_usage"] == [0.5]  # a list also where there is one code per vector
    assert metrics.state_dict() == {}


def test_without_classes_the_distortion_is_measured() -> None:
    metrics = make_metrics(None, (4,), distortion=True)
    maps = torch.ones(1, 3, 1, 2)
    counted = torch.ones(1, 1, 2, dtype=torch.bool)
    codes = torch.tensor([[[0], [1]]])
    for images, loss in ((4, 1.0), (1, 2.0)):  # a smaller last batch counts less
        metrics.update(
            losses={"loss": torch.tensor(loss), "vq_loss": torch.tensor(-loss)}, images=images,
            features=maps, decoded=0.9 * maps, counted=counted, codes=codes,
        )  # fmt: skip
    values = as_values(metrics.compute())
    assert values.pop("loss") == pytest.approx(1.2)
    assert values.pop("vq_loss") == pytest.approx(-1.2)
    metrics.reset()
    metrics["losses"].update({"loss": torch.tensor(3.0)}, 2)
    assert as_values(metrics["losses"].compute()) == {"loss": 3.0}
    assert values.pop("codebook_usage") == [0.5]
    assert values.pop("codebook_perplexity") == pytest.approx([2.0])
    assert values == pytest.approx({"mse": 0.01, "cosine": 1.0, "sqnr_db": 20.0}, abs=1e-4)


def test_one_number_per_name_for_trackers() -> None:
    values = {"iou": 0.5, "per_class_iou": [0.1, None], "codebook_usage": [0.2], "x": [0.3, 0.4]}
    assert flatten(values) == {
        "iou": 0.5, "per_class_iou_0": 0.1, "codebook_usage": 0.2, "x_level_0": 0.3,
        "x_level_1": 0.4,
    }  # fmt: skip
