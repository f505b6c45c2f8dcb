"""The part of an extraction that a process makes, as SLURM, torchrun or the options say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.inference.request import Extraction


@dataclass(frozen=True)
class Part:
    """The part of an extraction that this process makes: every shard i with i mod count = index.

    `source` names the environment variables that define it, if there are any.
    """

    index: int = 0
    count: int = 1
    source: str = ""

    def numbers(self, shards: int) -> range:
        """Return the numbers of this part's shards."""
        return range(self.index, shards, self.count)


def choose_part(request: Extraction, variables: Mapping[str, str]) -> Part:
    """Return the requested part, or else the part that a queue or launcher gives this process.

    The environment variables of SLURM job arrays, of SLURM tasks (`srun`) and of torchrun are read; tasks
    within an array divide its parts. Left-over variables are ignored if others are missing that only the
    launcher sets. Raises SqueezeError for variables that contradict each other.
    """
    part = Part(request.shard_index or 0, request.num_shards or 1)
    if request.num_shards is None:
        part = _launched_part(variables)
    if request.overwrite and part.count > 1:
        raise UsageError(
            "--overwrite would remove shards of other parts: remove the folder before the first part."
        )
    return part


def _launched_part(variables: Mapping[str, str]) -> Part:
    """Return the part that the variables of queues and launchers give this process."""
    part = Part()
    launchers = (
        ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
        ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE")
        if "TORCHELASTIC_RUN_ID" in variables
        else ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS"),
    )
    for names in launchers:
        if not all(name in variables for name in names):
            continue
        first, index, count = (variables[name] for name in names)
        number, most = _whole(names[1], index), _whole(names[2], count)
        if names[0] == "SLURM_ARRAY_TASK_MIN":
            step = _whole("SLURM_ARRAY_TASK_STEP", variables.get("SLURM_ARRAY_TASK_STEP", "1"))
            number, rest = divmod(number - _whole(names[0], first), max(step, 1))
            most = most if not rest else 0
        if not 0 <= number < most:
            raise SqueezeError(
                f"{names[1]}={index} is not a part of {names[2]}={count}: name the part by --shard-index "
                "and --num-shards."
            )
        if most > 1:
            source = " and ".join(filter(None, (part.source, f"{names[1]}={index}")))
            part = Part(part.index * most + number, part.count * most, source)
    return part


def _whole(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise SqueezeError(
            f"The environment variable {name} is {value!r}, not a whole number: unset it."
        )
    return int(value[:18])
