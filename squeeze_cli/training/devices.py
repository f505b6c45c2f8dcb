"""Devices and processes: `--device`, `--devices`, `--num-nodes`, `--strategy` and `--precision`.

With several devices, Lightning starts this command once more for each other device, unless torchrun
or SLURM has started all processes. Rank 0 owns the run's folder; the other ranks are silent.
"""

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LambdaCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]

from squeeze_cli.config.schema import TrainingConfig
from squeeze_cli.errors import SqueezeError, UsageError, one_line
from squeeze_cli.training.checkpoints import WholeFiles

_AVAILABLE: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
}


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `mps`; SqueezeError if it is not available."""
    if name == "auto":
        name = next((kind for kind, available in _AVAILABLE.items() if available()), "cpu")
    elif name in _AVAILABLE and not _AVAILABLE[name]():
        raise SqueezeError(f"--device {name} is not available here: use --device auto or cpu.")
    return torch.device(name)


def count_processes(training: TrainingConfig, device: torch.device) -> int:
    """Return the number of processes that train together: devices per node times nodes."""
    devices = training.devices
    if devices == "auto":
        devices = torch.cuda.device_count() if device.type == "cuda" else 1
    return int(devices) * training.num_nodes


def create_trainer(
    training: TrainingConfig, device: torch.device, *, callbacks: Iterable[Callback] = (),
    loggers: Iterable[Logger] = (), alone: bool = False, max_batches: int | None = None,
) -> pl.Trainer:  # fmt: skip
    """Create a trainer with the devices and the precision of `training`.

    With `alone` it uses a single process, whatever `training` says. `max_batches` limits the batches of
    every split in an epoch. Raises UsageError if the options do not fit each other.
    """
    several = not alone and count_processes(training, device) > 1
    environments = []
    if not several:  # Lightning must ignore a cluster's environment variables
        environments = [LightningEnvironment()]
        environments[0].set_global_rank(0)
    limit: int | float = max_batches or 1.0
    terminate = signal.getsignal(signal.SIGTERM)

    def keep_handler(*_: object) -> None:
        """Restore the handler of SIGTERM: Lightning's waits for processes that may wait for this one."""
        if callable(terminate) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)

    try:
        return pl.Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=training.devices if several else 1,
            num_nodes=training.num_nodes if several else 1,
            strategy=training.strategy if several else "auto",
            precision="bf16-mixed" if training.precision == "bf16" else "32-true",
            sync_batchnorm=several and device.type == "cuda",  # torch supports it on GPUs only
            max_epochs=training.epochs,
            limit_train_batches=limit,
            limit_val_batches=limit,
            limit_test_batches=limit,
            num_sanity_val_steps=0,
            logger=list(loggers),
            callbacks=[
                *callbacks,
                LambdaCallback(on_train_start=keep_handler, on_test_start=keep_handler),
            ],
            plugins=[WholeFiles(), *environments],
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data module gives each rank its share
        )
    except (MisconfigurationException, ValueError) as error:
        reason = one_line(error, 300)
        raise UsageError(f"--devices, --num-nodes or --strategy do not fit: {reason}") from None


@contextmanager
def quiet_libraries(*, verbose: bool) -> Iterator[None]:
    """Hide Lightning's own messages and warnings in the context, unless `verbose`."""
    with ExitStack() as stack:
        if not verbose:
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            for logger in map(logging.getLogger, ("lightning.pytorch", "lightning.fabric")):
                stack.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.ERROR)
        yield
