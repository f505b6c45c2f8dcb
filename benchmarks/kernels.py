"""Time that each hand-made kernel saves in a whole training.

    python -m benchmarks.kernels --backbone vit --images 300 --data-dir ../shared/data

The feature store is filled once; then `squeeze train` is timed on stored features with all kernels, with
one of them replaced by its plain equivalent, and with `--no-kernels`. Times are those of whole processes,
with `--repeats` the median of several. A kernel stays in the package if it saves a tenth of a training.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from rich.table import Table

from benchmarks.machine import show
from benchmarks.processes import measure

RUN = "import runpy, sys; sys.argv[0] = 'squeeze'; runpy.run_module('squeeze_cli', run_name='__main__')"
# Programs that run before `squeeze`; each replaces one kernel by its plain equivalent.
PLAIN_TWINS = {
    "all kernels": "",
    "without folding": """
from squeeze_cli.heads.base import SegmentationHead
from squeeze_cli.model.network import SegmentationNetwork
init = SegmentationNetwork.__init__
def plain(self, *args, **kwargs):
    init(self, *args, **kwargs)
    self.use_kernels = False
SegmentationNetwork.__init__ = plain
""",
    "without the cross-entropy kernel": """
from squeeze_cli.losses.segmentation import CrossEntropyLoss, SegmentationLoss
CrossEntropyLoss.forward = SegmentationLoss.forward
""",
    "without the dilation kernel": """
from squeeze_cli.heads import deeplab_head
deeplab_head.meets_little = lambda size, dilation: False
""",
}


def main() -> None:
    """Time each choice and show the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit", choices=("vit", "deeplab"))
    parser.add_argument("--quantizer", default="vq")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="which rows, by a part of their names")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    table = Table("", "seconds", "of all kernels", box=None, pad_edge=False)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as folder:
        arguments = [
            "train", "--quantizer", options.quantizer, "--codes", "plain",
            "--model", options.backbone, "--weights", "none", "--batch-size", str(options.batch_size),
            "--subset-size", str(options.images),
            "--epochs", str(options.epochs), "--data-dir", str(options.data_dir.resolve()),
            "--cache-dir", f"{folder}/cache", "--output-dir", f"{folder}/runs", "--name", "run",
            "--overwrite", "--quiet", "--device", options.device,
        ]  # fmt: skip

        def seconds(program: str, *extra: str) -> float:
            command = [sys.executable, "-c", f"{program}\n{RUN}", *arguments, *extra]
            return measure(command).wall_s

        seconds("")  # fills the store
        choices = {name: (program,) for name, program in PLAIN_TWINS.items()}
        choices["--no-kernels"] = ("", "--no-kernels")  # type: ignore[assignment]
        for name, choice in choices.items():
            if name != "all kernels" and options.only and not any(o in name for o in options.only):
                continue
            figures[name] = statistics.median(seconds(*choice) for _ in range(options.repeats))
            table.add_row(
                name, f"{figures[name]:.1f}", f"{figures[name] / figures['all kernels']:.2f}"
            )
    show(table, figures, options.json)


if __name__ == "__main__":
    main()
