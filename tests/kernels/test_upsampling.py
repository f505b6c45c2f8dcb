from __future__ import annotations

import torch
from torch.nn import functional as F

from squeeze_cli.kernels.upsampling import upsample_bilinear


def test_it_is_interpolate_with_its_gradient() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 7, 4, dtype=torch.float64, requires_grad=True)
    for size in ((33, 50), (7, 4), (224, 224)):
        ours = upsample_bilinear(maps, size)
        theirs = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(ours, theirs)
        probe = torch.randn_like(theirs)
        (a,) = torch.autograd.grad((ours * probe).sum(), maps)
        (b,) = torch.autograd.grad((theirs * probe).sum(), maps)
        torch.testing.assert_close(a, b)


def test_a_first_call_in_inference_mode_does_not_spoil_training() -> None:
    maps = torch.randn(1, 2, 3, 5)
    with torch.inference_mode():
        upsample_bilinear(maps, (11, 13))
    upsample_bilinear(maps.requires_grad_(), (11, 13)).sum().backward()
    assert maps.grad is not None
