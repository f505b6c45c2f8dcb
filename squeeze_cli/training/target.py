"""Search for the weight of the rate, or the step, whose codes have the bits of `--target-bits`."""

from collections.abc import Sequence

from squeeze_cli.config.fields import value_of
from squeeze_cli.config.record import FinishedRecord
from squeeze_cli.config.resolve import with_values
from squeeze_cli.config.schema import ExperimentConfig, option_of
from squeeze_cli.config.target import TOLERANCE, dial_of, next_value
from squeeze_cli.console import Reporter
from squeeze_cli.runs import RunFolder, create_run
from squeeze_cli.training.fit import fit_experiment


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
        value = float(value_of(config, key))
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
