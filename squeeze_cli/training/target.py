"""Trainings with other weights of the rate, until codes have the bits per vector of `--target-bits`."""

from collections.abc import Sequence

from squeeze_cli.config.record import FinishedRecord
from squeeze_cli.config.resolve import with_values
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.config.target import TOLERANCE, next_weight
from squeeze_cli.console import Reporter
from squeeze_cli.runs import RunFolder, create_run
from squeeze_cli.training.fit import fit_experiment


def approach_target(
    config: ExperimentConfig, run: RunFolder, record: FinishedRecord, reporter: Reporter
) -> FinishedRecord:
    """Train again where the bits per vector of a run with a target are not near it.

    Each training replaces the one before, in the same folder, once it has begun; a stopped one
    resumes as any other, and the search goes on from it. Returns the record of the last one.
    """
    target, weight = config.quantizer.target_bits, config.quantizer.rate_weight
    tried: list[tuple[float, float]] = []
    while target and weight:
        tried.append((weight, bits_per_vector(record)))
        reporter.say(f"--rate-weight {weight:.3g} gives {tried[-1][1]:.2f} bits per vector.")
        if (weight := next_weight(tried, target)) is None:
            _warn_if_far(tried, target, reporter)
            break
        config = with_values(config, {"quantizer.rate_weight": weight, "name": run.name})
        run = create_run(config, overwrite=True)
        with run.training():
            record = fit_experiment(config, run, reporter)
    return record


def _warn_if_far(
    tried: Sequence[tuple[float, float]], target_bits: float, reporter: Reporter
) -> None:
    reached = tried[-1][1]
    if abs(reached / target_bits - 1) > TOLERANCE:
        fix = "--quantizer rvq or a larger" if reached < target_bits else "a smaller"
        reporter.warn(
            f"The last of {len(tried)} trainings has {reached:.2f} bits per vector, not the "
            f"{target_bits:g} of --target-bits: try {fix} --codebook-size."
        )


def bits_per_vector(record: FinishedRecord) -> float:
    """Return the bits per vector on the disk: codes of `val`, beside headers and names of `test`.

    So nothing is chosen by the test images, and a small `val` does not count its header twice.
    """
    assert record.measured is not None  # it has codes
    val, test = record.measured.val, record.measured.test
    overhead = test.bits_per_vector - test.payload_bits_per_vector
    return val.payload_bits_per_vector + overhead
