"""Loading a run's weights back."""

from __future__ import annotations

import torch

from squeeze_cli.errors import SqueezeError
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.modules import BaselineSegmentationModule


def load_best(module: BaselineSegmentationModule, run: RunFolder) -> None:
    """Load the best epoch's weights into the module; SqueezeError where they are not there."""
    try:
        checkpoint = torch.load(run.best_checkpoint, map_location="cpu", weights_only=True)
        module.network.load_state_dict(
            {
                name.removeprefix("network."): tensor
                for name, tensor in checkpoint["state_dict"].items()
                if name.startswith("network.")
            }
        )
    except FileNotFoundError:
        raise SqueezeError(f"{run.path} holds no checkpoint: train it to the end first.") from None
    except Exception as error:  # noqa: BLE001 - unpickling damaged bytes can raise anything
        reason = " ".join(str(error).split())[:200]
        raise SqueezeError(f"{run.best_checkpoint} cannot be loaded ({reason}).") from None
