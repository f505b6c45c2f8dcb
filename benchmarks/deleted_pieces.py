"""Time saved by each shortcut of version 3be7f95 that later versions do not have.

    python -m benchmarks.deleted_pieces --backbone vit --images 300 --data-dir ../shared/data

The script checks that version out of the repository's history, fills its feature store once, and then
times `squeeze train` on stored features, unchanged and with one shortcut at a time replaced by the
library's plain call. Times are those of whole processes, with `--repeats` the median of several.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.table import Table

from benchmarks.machine import show
from benchmarks.processes import ROOT, measure

VERSION = "3be7f95"
# Import torch as that version does, where a patch needs torch.
QUICK = """
from squeeze_cli.importing import quick_imports
with quick_imports():
    import torch, torchvision, torchmetrics, lightning.pytorch, vector_quantize_pytorch
"""
# Programs that run before `squeeze`; each leaves one shortcut out.
PIECES = {
    "nothing left out": "",
    "stand-ins for modules while importing": """
import squeeze_cli.importing as m
m.postpone_unused = lambda: None
""",
    "garbage collector held back": """
import contextlib, squeeze_cli.importing as m
@contextlib.contextmanager
def quick():
    m.keep_freed_memory(); m.share_cores(); m.postpone_unused()
    yield
m.quick_imports = quick
""",
    "allocator tuning": """
import squeeze_cli.importing as m
m.keep_freed_memory = lambda: False
""",
    "end of the process by os._exit": """
import squeeze_cli.process_end as m
m.end_process = lambda code: None
""",
    "drawing process": """
import squeeze_cli.reports.drawing as m
def none(): raise OSError
m._start = none
""",
    "own dropout": QUICK
    + """
import squeeze_cli.dropout as m
from torch.nn import functional as F
m.dropout = lambda x, p, training: F.dropout(x, p, training)
""",
    "Winograd's algorithm": QUICK
    + """
import squeeze_cli.winograd as m
from torch.nn import functional as F
m.with_winograd = lambda backbone: backbone
m.winograd_convolution = lambda maps, weight: F.conv2d(maps, weight, padding=1)
""",
    "AdamW without its check for CUDA graphs": QUICK
    + """
import torch, squeeze_cli.training.modules as m
m._AdamW = torch.optim.AdamW
""",
    "own codebook step": QUICK
    + """
import squeeze_cli.quantizers.codebooks as m
m.train_codebook = lambda layer, vectors: layer(vectors)
""",
    "own k-means": QUICK
    + """
import squeeze_cli.quantizers.codebooks as m
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans
def library(vectors, count):
    means, counts = kmeans(vectors[None], count, m.KMEANS_ITERATIONS)
    return means[0], counts[0].to(means.dtype)
m.kmeans = library
""",
    "checkpoints after few epochs": QUICK
    + """
import squeeze_cli.training.checkpoints as m
m.WRITING_SHARE = 1e9
""",
    "own update of the confusion matrix": QUICK
    + """
import squeeze_cli.metrics as m
from torchmetrics.classification import MulticlassConfusionMatrix
m.SegmentationMetrics.update = MulticlassConfusionMatrix.update
""",
}
RUN = "import runpy, sys; sys.argv[0] = 'squeeze'; runpy.run_module('squeeze_cli', run_name='__main__')"


def main() -> None:
    """Time each piece and show the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit", choices=("vit", "deeplab"))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="which rows, by a part of their names")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    table = Table("left out", "seconds", "more than with it", box=None, pad_edge=False)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as folder:
        subprocess.run(["git", "clone", "-q", str(ROOT), f"{folder}/code"], check=True)
        subprocess.run(["git", "-C", f"{folder}/code", "checkout", "-q", VERSION], check=True)
        arguments = [
            "train", "--model", options.backbone, "--weights", "none", "--batch-size", "4",
            "--subset-size", str(options.images), "--epochs", str(options.epochs), "--overwrite",
            "--data-dir", str(options.data_dir.resolve()), "--cache-dir", f"{folder}/cache",
            "--output-dir", f"{folder}/runs", "--name", "run", "--quiet",
        ]  # fmt: skip

        def seconds(patch: str) -> float:
            program = f"import sys; sys.path.insert(0, {folder + '/code'!r})\n{patch}\n{RUN}"
            return measure([sys.executable, "-c", program, *arguments]).wall_s

        seconds("")
        for name, patch in PIECES.items():
            if options.only and not any(part in name for part in (*options.only, "nothing")):
                continue
            figures[name] = statistics.median(seconds(patch) for _ in range(options.repeats))
            more = figures[name] - figures["nothing left out"]
            table.add_row(name, f"{figures[name]:.1f}", f"{more:+.1f}")
    show(table, figures, options.json)


if __name__ == "__main__":
    main()
