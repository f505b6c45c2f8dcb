from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest

from squeeze_cli.importing import COLLECT_AFTER, quick_imports


def test_the_collector_rests_within_and_works_after_even_an_error() -> None:
    assert gc.isenabled()

    def fail() -> None:
        with quick_imports():
            assert not gc.isenabled()
            raise ImportError

    thresholds = gc.get_threshold()
    try:
        with pytest.raises(ImportError):
            fail()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] == COLLECT_AFTER
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


# In a process of its own: what the tests have imported cannot be postponed any more.
USED = """
import json, sys
from squeeze_cli.importing import postpone_unused
postpone_unused()
import torch, torchvision, lightning.pytorch, vector_quantize_pytorch
parameter = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([parameter], lr=0.1)
parameter.sum().backward()
optimizer.step()
before = "sympy" in sys.modules or "matplotlib" in sys.modules
{use}
real = [
    sys.modules[name].__spec__ is not None
    for name in (
        "torch._dynamo", "einx", "torch.distributions", "torchvision.models.detection",
        "torchmetrics.utilities.plot",
    )
]
print(json.dumps([before, parameter[0].item(), real]))
"""


def run_use(use: str) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", USED.format(use=use)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, parameter, real = json.loads(done.stdout.splitlines()[-1])
    assert not before
    assert parameter == pytest.approx(0.899, abs=1e-3)
    found: list[object] = real
    return found


def test_a_training_step_needs_none_of_them() -> None:
    assert run_use("pass") == [False] * 5


@pytest.mark.parametrize(
    "use",
    [
        "assert torch.compile(torch.sin, backend='eager')(torch.zeros(2)).sum() == 0",
        "from torch._dynamo.eval_frame import OptimizedModule",
        "import torch._dynamo.config as c; assert c is sys.modules['torch._dynamo'].config",
        "from torch._dynamo.utils import counters",
        "assert sys.modules['torch._dynamo.utils'].is_compile_supported('cpu') in (True, False)",
    ],
)
def test_the_compiler_comes_when_it_is_used(use: str) -> None:
    assert run_use(use)[0]


def test_what_torch_and_torchvision_import_comes_when_it_is_used() -> None:
    use = (
        "from torchvision.models import detection; assert detection.fasterrcnn_resnet50_fpn;"
        "assert torch.distributions.Normal(0.0, 1.0).mean == 0;"
        "assert torch.export.export and torchvision.models.video.r3d_18;"
        "import torch.utils._triton; torch.utils._triton.has_triton()"
    )
    assert run_use(use)[2:4] == [True, True]


def test_einx_comes_when_it_is_used() -> None:
    use = (
        "vq = vector_quantize_pytorch.ResidualVQ(dim=4, num_quantizers=2, codebook_size=3);"
        "assert vq.get_output_from_indices(torch.zeros(1, 5, 2).long()).shape == (1, 5, 4)"
    )
    assert run_use(use)[1]


def test_torchmetrics_plots_when_asked() -> None:
    use = (
        "import torchmetrics; metric = torchmetrics.MeanMetric(); metric.update(2.0);"
        "figure, axis = metric.plot(); assert axis.lines[0].get_ydata() == [2.0]"
    )
    assert run_use(use)[4]
