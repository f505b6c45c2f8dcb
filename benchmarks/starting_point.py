"""Initial weights and images for both programs of `benchmarks.training`.

    python -m benchmarks.starting_point FOLDER

Reads FOLDER/config.yaml; writes FOLDER/splits.json (paths of image and trimap by split) and
FOLDER/initial.pt (the network as `squeeze train` initializes it: PCA, k-means, a random head).
Its time is not measured: `squeeze train` repeats the same steps within its own time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from squeeze_cli.config.resolve import load_experiment, with_values
from squeeze_cli.console import Reporter
from squeeze_cli.data.samples import FileSample
from squeeze_cli.training.callbacks import initialize
from squeeze_cli.training.experiment import set_up


def main() -> None:
    """Set the experiment up without a store, initialize the network, save."""
    folder = Path(sys.argv[1])
    config = load_experiment(folder / "config.yaml", None)
    config = with_values(config, {"data.use_cache": False})
    experiment = set_up(config, Reporter(quiet=True))
    experiment.data.setup()
    initialize(experiment)
    torch.save(experiment.module.network.state_dict(), folder / "initial.pt")
    splits = {
        name: [_paths(sample) for sample in getattr(experiment.splits, name)]
        for name in ("train", "val", "test")
    }
    (folder / "splits.json").write_text(json.dumps(splits), encoding="utf-8")


def _paths(sample: object) -> tuple[str, str]:
    assert isinstance(sample, FileSample)
    return str(sample.image_path), str(sample.mask_path)


if __name__ == "__main__":
    main()
