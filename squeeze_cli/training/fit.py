"""Training, testing and saving of an experiment in the folder of a run, once or for `--target-bits`."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from squeeze_cli.config.record import FinishedRecord, RunRecord
from squeeze_cli.config.resolve import with_values, write_config
from squeeze_cli.config.schema import ExperimentConfig, option_of
from squeeze_cli.config.target import TOLERANCE, dial_of, next_value
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, one_line
from squeeze_cli.runs import RunFolder, create_run
from squeeze_cli.trackers.loggers import open_trackers
from squeeze_cli.training.callbacks import (
    DivergenceGuard,
    RecordKeeper,
    ReportedProgress,
    divergence,
    initialize,
)
from squeeze_cli.training.checkpoints import checkpoint_callbacks, last_checkpoint, load_best
from squeeze_cli.training.codes import save_codes
from squeeze_cli.training.devices import create_trainer, quiet_libraries
from squeeze_cli.training.distillation import add_teacher, check_taught_images
from squeeze_cli.training.experiment import Experiment, set_up
from squeeze_cli.training.figures import save_figures
from squeeze_cli.training.measure import evaluate, measure_levels
from squeeze_cli.training.record import Journal, require_same_data, start_record

# Exit code of a process that SIGTERM has ended, as a shell reports it.
TERMINATED = 143


def fit_experiment(
    config: ExperimentConfig, run: RunFolder, reporter: Reporter, *, resume: bool = False
) -> FinishedRecord:
    """Train, test and save `config` in `run`, and return the run's record.

    The status in the record is `running`, and at the end `finished`, `interrupted` (by Ctrl-C, which
    raises KeyboardInterrupt, or SIGTERM, which raises SystemExit) or `failed`. An error before the
    training starts, such as missing data, leaves no folder.
    """
    journal = Journal(run, run.read_record() if resume else start_record(config, run.name))
    if not resume:
        write_config(run.config_file, config)
    journal.save()
    with ExitStack() as stack:  # the trackers close after the record is whole
        try:
            loggers = stack.enter_context(open_trackers(config, run, journal.record, reporter))
            experiment = set_up(config, reporter)
            train(experiment, run, reporter, journal, loggers, resume=resume)
            _save_results(run, experiment, journal.record, reporter)
        except (KeyboardInterrupt, SystemExit):
            journal.end("interrupted")
            raise
        except BaseException as error:
            if isinstance(error, SqueezeError) and not resume and journal.record.model is None:
                journal.record.status = "failed"  # for the trackers
                run.discard()
                raise
            reason = one_line(error, 500)
            journal.end("failed", f"{type(error).__name__}: {reason}")
            raise
        journal.save("finished")
    return run.read_finished()


def _save_results(
    run: RunFolder, experiment: Experiment, record: RunRecord, reporter: Reporter
) -> None:
    """Write codes, prior and figures for the weights of the best epoch."""
    start = time.perf_counter()
    experiment.module.eval().to(experiment.device)
    counts = save_codes(run, experiment, record, reporter)
    if experiment.config.quantizer.quantizer_dropout:
        record.first_levels = measure_levels(run, experiment, record, reporter)
    record.seconds.codes = time.perf_counter() - start
    save_figures(run, experiment, record, counts, reporter)


def train(
    experiment: Experiment, run: RunFolder, reporter: Reporter, journal: Journal | None = None,
    loggers: Sequence[Logger] = (), *, resume: bool,
) -> None:  # fmt: skip
    """Train and test, on all ranks alike; afterwards the module has the best epoch's weights.

    `journal` is the run's record; on ranks above 0 it is None, because rank 0 writes all files. With
    `resume` the training continues from `last.ckpt`.
    """
    config, device, module = experiment.config.training, experiment.device, experiment.module
    begun = run.read_record() if resume else None
    checkpoint = last_checkpoint(run, module, begun.history) if begun else None
    add_teacher(experiment, begun)
    guard, keeper = DivergenceGuard(), RecordKeeper(experiment, journal)

    def begin(_trainer: pl.Trainer, _module: pl.LightningModule, stage: str) -> None:
        """Check that the data of a resumed run are the same, or initialize the network of a new run."""
        if stage != "fit":
            return
        if begun is not None:
            require_same_data(begun, experiment, reporter)
        check_taught_images(experiment, reporter)
        if checkpoint is None:
            initialize(experiment)

    callbacks = [
        ReportedProgress(reporter), guard, keeper, LambdaCallback(setup=begin),
        *checkpoint_callbacks(run, module),
    ]  # fmt: skip
    with quiet_libraries(verbose=reporter.verbose):
        trainer = create_trainer(
            config, device, callbacks=callbacks, loggers=loggers, max_batches=config.max_batches,
        )  # fmt: skip
        _fit(trainer, experiment, checkpoint)
        if not keeper.history:
            raise SqueezeError("No epoch was trained: there is no training batch; check the data.")
        best = load_best(module, run)
        own = journal is None or keeper.is_own(best, module.network.digest())
        if not trainer.strategy.reduce_boolean_decision(own):  # all ranks must raise the error
            raise SqueezeError(
                f"{run.best_checkpoint} is of another run: start this one again with --overwrite."
            )
        trainer.test(module, datamodule=experiment.data, verbose=False)
        tested = module.results["test"]
    trained = evaluate(module, experiment.data, "train", device, reporter)
    if journal is not None:
        journal.conclude(best, trained, tested, guard.first_loss)
        for warning in journal.record.warnings:
            reporter.warn(warning)


def _fit(trainer: pl.Trainer, experiment: Experiment, checkpoint: Path | None) -> None:
    """Call `trainer.fit`; Ctrl-C raises KeyboardInterrupt, which Lightning turns into SystemExit(1)."""
    try:
        trainer.fit(
            experiment.module, datamodule=experiment.data, ckpt_path=checkpoint, weights_only=True
        )
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        symptom = f"a covariance is singular or not finite after step {trainer.global_step}"
        raise divergence(trainer, symptom) from None
    except SIGTERMException:
        raise SystemExit(TERMINATED) from None
    except SystemExit:
        raise KeyboardInterrupt from None


def approach_target(
    config: ExperimentConfig, run: RunFolder, record: FinishedRecord, reporter: Reporter
) -> FinishedRecord:
    """Train again with other weights of the rate, or other steps of dct, until the bits per vector of a
    run are near its target.

    Each training replaces the previous one in the same folder as soon as it has begun. The search
    continues after a stopped training is resumed. Returns the record of the last training.
    """
    target, kind = config.quantizer.target_bits, config.quantizer.type
    dial = dial_of(kind)
    key = f"quantizer.{dial.field}"
    tried: list[tuple[float, float]] = []
    while target:
        value = float(getattr(config.quantizer, dial.field))
        tried.append((value, bits_per_vector(record)))
        reporter.say(f"{option_of(key)} {value:.3g} gives {tried[-1][1]:.2f} bits per vector.")
        if (following := next_value(dial, tried, target)) is None:
            _warn_if_far(kind, tried, target, reporter)
            break
        values = {key: following, "name": run.name}
        if kind == "dct":
            weight = config.quantizer.rate_weight or 0.0
            values["quantizer.rate_weight"] = weight * (following / value) ** 2
        config = with_values(config, values)
        run = create_run(config, overwrite=True)
        with run.training():
            record = fit_experiment(config, run, reporter)
    return record


def _warn_if_far(
    quantizer: str, tried: Sequence[tuple[float, float]], target_bits: float, reporter: Reporter
) -> None:
    reached = tried[-1][1]
    if abs(reached / target_bits - 1) > TOLERANCE:
        fix = "--quantizer rvq or a larger --codebook-size"
        if quantizer == "dct":
            fix = f"a {'larger' if reached < target_bits else 'smaller'} --bottleneck-dim"
        elif reached > target_bits:
            fix = "a smaller --codebook-size"
        reporter.warn(
            f"The last of {len(tried)} trainings has {reached:.2f} bits per vector, not the "
            f"{target_bits:g} of --target-bits: try {fix}."
        )


def bits_per_vector(record: FinishedRecord) -> float:
    """Return bits per vector on disk: those of the codes of `val`, plus the index of the file of `test`.

    So the codes of test images decide nothing, and neither does the larger share of the index in the
    file of a small `val` split.
    """
    assert record.measured is not None  # it has codes
    val, test = record.measured.val, record.measured.test
    overhead = test.bits_per_vector - test.payload_bits_per_vector
    return val.payload_bits_per_vector + overhead
