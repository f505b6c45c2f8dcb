"""Writing and reading of a run's checkpoints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from squeeze_cli.config.record import EpochMetrics
from squeeze_cli.errors import SqueezeError, one_line
from squeeze_cli.files import written_atomically
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.modules import FeatureModule

# Name of the epochs' metrics in `last.ckpt`.
HISTORY_KEY = "RunRecord"


def checkpoint_callbacks(run: RunFolder, module: FeatureModule) -> list[ModelCheckpoint]:
    """Return callbacks that write `best.ckpt` (weights only, chosen by `module.monitor`) and `last.ckpt`
    (the complete state) after every epoch.

    The best comes first: if the process is killed between the two, the resumed run repeats the epoch
    and writes the same weights again.
    """
    folder = run.last_checkpoint.parent
    best = ModelCheckpoint(
        folder, run.best_checkpoint.stem,
        monitor=module.monitor, mode=module.mode, save_weights_only=True,
        save_on_train_epoch_end=True, enable_version_counter=False,
    )  # fmt: skip
    last = ModelCheckpoint(
        folder, run.last_checkpoint.stem,
        save_on_train_epoch_end=True, enable_version_counter=False,
    )  # fmt: skip
    return [best, last]


class WholeFiles(TorchCheckpointIO):
    """Atomic writing of Lightning's checkpoints, and reading with a check of their checksums.

    Lightning stages a file in the system's temporary folder and moves it, which is not atomic
    across file systems; and it does not compare the checksums that torch writes.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Write a temporary file beside `path`, and rename it."""
        with written_atomically(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                reason = error.__context__  # a full disk is an error about torch's own files
                raise reason if isinstance(reason, OSError) else error from None

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., object] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, object]:  # fmt: skip
        """Read a checkpoint; raises SqueezeError if it is damaged."""
        require_whole(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)


def require_whole(path: Path) -> None:
    """Raise SqueezeError if a checkpoint does not match its checksums, which torch writes but does not
    check, and FileNotFoundError if there is none."""
    try:
        if path.exists() and not path.is_file():  # reading could block
            raise BadZipFile
        with ZipFile(path) as archive:
            damaged = archive.testzip() is not None
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - foreign archives can raise anything
        damaged = True
    if damaged:
        raise SqueezeError(f"{path} is damaged: train the run again, with --overwrite.")


def last_checkpoint(
    run: RunFolder, module: FeatureModule, history: Sequence[EpochMetrics]
) -> Path | None:
    """Return the `last.ckpt` from which a run with this history continues, None before its first.

    The metrics of its epochs must be equal to the first ones of the record, which is written before it.
    Raises SqueezeError if they are not, and for a missing or damaged checkpoint.
    """
    path = run.last_checkpoint
    if not path.exists() and len(history) <= 1:  # the run was stopped before it wrote one
        return None
    for file in (path, run.best_checkpoint):
        if not file.exists():
            raise SqueezeError(f"{file} is missing: restore it, or start again with --overwrite.")
    require_whole(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        epochs = [
            EpochMetrics.model_validate(epoch)
            for epoch in stored["callbacks"][HISTORY_KEY]["history"]
        ]
        own, found = (
            # A codec of FAISS (the only uint8 tensor) has another size before it is trained.
            {name: tensor.shape for name, tensor in state.items() if tensor.dtype != torch.uint8}
            for state in (module.state_dict(), stored["state_dict"])
        )
        fits = own == found and epochs == list(history[: len(epochs)])
    except Exception:  # noqa: BLE001 - foreign content can raise anything
        fits = False
    if not fits:
        raise SqueezeError(
            f"{path} is not a checkpoint of this run: restore its own, or start again with --overwrite."
        )
    return path


def load_best(module: FeatureModule, run: RunFolder, digest: str | None = None) -> int:
    """Load the best epoch's weights into the module, and return the epoch's number from 0.

    Raises SqueezeError if they are missing, damaged, or do not have the `digest`, if one is given.
    """
    try:
        require_whole(run.best_checkpoint)
        checkpoint = torch.load(run.best_checkpoint, map_location="cpu", weights_only=True)
        module.network.load_state_dict(
            {
                name.removeprefix("network."): tensor
                for name, tensor in checkpoint["state_dict"].items()
                if name.startswith("network.")
            }
        )
        if digest not in (None, module.network.digest()):
            raise SqueezeError(
                f"{run.best_checkpoint} holds the weights of another run than {run.record_file}: "
                "restore the checkpoint of this run, or train it again."
            )
        return int(checkpoint["epoch"])
    except FileNotFoundError:
        raise SqueezeError(f"{run.best_checkpoint} is missing: restore it or train anew.") from None
    except SqueezeError:
        raise
    except Exception as error:  # noqa: BLE001 - unpickling foreign bytes can raise anything
        reason = one_line(error, 100)
        raise SqueezeError(
            f"{run.best_checkpoint} is not a checkpoint of this run ({reason}): train it again."
        ) from None
