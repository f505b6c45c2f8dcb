from __future__ import annotations

import pytest
import torch

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.training.figures import image_iou


def test_iou_of_one_image_is_the_mean_over_the_classes_in_it() -> None:
    truth = torch.tensor([[0, 0, 1], [1, 1, 1]])
    predicted = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert image_iou(predicted, truth, 3) == pytest.approx((1 / 2 + 4 / 5) / 2)
    assert image_iou(truth, truth, 21) == 1.0


def test_ignored_pixels_do_not_count_and_without_a_truth_there_is_no_iou() -> None:
    truth = torch.tensor([[0, IGNORE_INDEX, 1]])
    assert image_iou(torch.tensor([[0, 2, 1]]), truth, 3) == 1.0
    assert image_iou(torch.tensor([[0, 2, 1]]), torch.full((1, 3), IGNORE_INDEX), 3) is None
