"""Each flag once: its spellings, type, help, panel, and the configuration field that it sets.

Every flag also answers to its snake_case spelling and to its older names (`--quantizer_type`):
`normalize_token` maps them before options are looked up. A flag left out is None and leaves the
file or the default to decide.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from squeeze_cli.config.fields import Section, flag_of
from squeeze_cli.config.parts import BACKBONES, LOSSES, QUANTIZERS
from squeeze_cli.config.schema import (
    DataConfig,
    Dataset,
    DeviceName,
    LoggerConfig,
    Precision,
    TrainingConfig,
)
from squeeze_cli.errors import UsageError

MODEL, QUANTIZER = "Model", "Quantizer"
TRAINING, DATA, RUN, OUTPUT = "Training", "Data", "Run", "Output"
TRACKING = "Tracking"


@dataclass(frozen=True)
class Flag:
    """One command-line option.

    Attributes:
        target: the configuration field, `section.field`, or a plain name for what is none.
        kind: the value's type.
        spellings: the long names, the preferred one first; `--help` shows that one.
        text: help, with the default where the field's own default is not the whole story.
        panel: the group in `--help`.
        metavar: what the value is called in `--help`.
        negative: for a bool, the spelling of the opposite, which `--help` leaves out.
        value: for a bool, what giving the flag means.
    """

    target: str
    kind: Any
    spellings: tuple[str, ...]
    text: str
    panel: str
    metavar: str | None = None
    negative: str | None = None
    value: bool = True

    @property
    def parameter(self) -> str:
        """The name of the function's parameter."""
        return self.target.replace(".", "__")


def _choice(names: Iterable[str]) -> Any:
    return Literal[tuple(names)]


MODEL_FLAGS = (
    Flag("model.backbone", _choice(BACKBONES), ("--model", "--backbone"),
         "Frozen backbone: " + ", ".join(BACKBONES) + ". [default: vit]", MODEL, metavar="NAME"),
    Flag("model.weights", str, ("--weights",),
         "default (the published ones), none (random, for tests) or a file. "
         "[default: default]", MODEL, metavar="W"),
    Flag("model.feature_dim", int, ("--feature-dim",),
         "Project features to N channels before the quantizer. [default: the backbone's]",
         MODEL, metavar="N"),
    Flag("model.num_classes", int, ("--num-classes",),
         "Outputs of the head. [default: 21 for vit, else 3]", MODEL, metavar="N"),
    Flag("model.add_adapter", bool, ("--add-adapter",),
         "Train a residual adapter on the frozen features.", MODEL, negative="--no-add-adapter"),
    Flag("model.unfreeze_last_layer", bool, ("--unfreeze-last-layer",),
         "Train the backbone's last layer too.", MODEL, negative="--no-unfreeze-last-layer"),
    Flag("model.loss_type", _choice(LOSSES), ("--loss", "--loss-type"),
         "Segmentation loss: " + ", ".join(LOSSES) + ". [default: ce]", MODEL, metavar="NAME"),
    Flag("model.class_weights", str, ("--class-weights",),
         "Weight of each class in the loss: pet, background, border. [default: all 1]",
         MODEL, metavar="1,1,2"),
)  # fmt: skip

QUANTIZER_FLAGS = (
    Flag("quantizer.type", _choice(QUANTIZERS), ("--quantizer", "--quantizer-type"),
         "How features become codes: " + ", ".join(QUANTIZERS) + ". [default: vq]",
         QUANTIZER, metavar="NAME"),
    Flag("quantizer.codebook_size", int, ("--codebook-size",),
         "Codes a codebook (vq, lfq, rvq). [default: 512; 256 for rvq]", QUANTIZER, metavar="N"),
    Flag("quantizer.bottleneck_dim", int, ("--bottleneck-dim",),
         "Width that features are projected to. [default: 64]", QUANTIZER, metavar="N"),
    Flag("quantizer.num_quantizers", int, ("--num-quantizers",),
         "Codebooks in a row (rvq). [default: 4]", QUANTIZER, metavar="N"),
    Flag("quantizer.levels", str, ("--levels",),
         "Levels of each dimension (fsq). [default: 8,5,5,5]", QUANTIZER, metavar="8,5,5,5"),
    Flag("quantizer.decay", float, ("--decay",),
         "Of the codebooks' moving averages (vq, rvq). [default: 0.99]", QUANTIZER, metavar="X"),
    Flag("quantizer.commitment_weight", float, ("--commitment-weight",),
         "Of the commitment loss (vq, rvq, lfq). [default: 0.25]", QUANTIZER, metavar="X"),
    Flag("quantizer.entropy_loss_weight", float, ("--entropy-loss-weight",),
         "Of the entropy loss (lfq). [default: 0.1]", QUANTIZER, metavar="X"),
    Flag("quantizer.diversity_gamma", float, ("--diversity-gamma",),
         "Of even code use within the entropy loss (lfq). [default: 0.1]", QUANTIZER, metavar="X"),
    Flag("quantizer.spherical", bool, ("--spherical",),
         "Put vectors on the unit sphere first (lfq).", QUANTIZER, negative="--no-spherical"),
    Flag("quantizer.vq_loss_weight", float, ("--vq-loss-weight",),
         "Of the quantizer's loss in the total (vq, rvq, lfq). [default: 0.1]",
         QUANTIZER, metavar="X"),
    Flag("quantizer.encoder_lr_factor", float, ("--encoder-lr-factor",),
         "Of the learning rate, for the layers before the codes: less gives fewer bits, and a "
         "lower mean IoU. [default: 1; 0.3 for vq]", QUANTIZER, metavar="X"),
    Flag("quantizer.initialize_codebook", bool, ("--no-initialize-codebook",),
         "Start codebooks (vq, rvq) from noise, not by k-means on training features.",
         QUANTIZER, negative="--initialize-codebook", value=False),
)  # fmt: skip

TRAINING_FLAGS = (
    Flag("training.epochs", int, ("--epochs",),
         "Passes over the training images. [default: 10]", TRAINING, metavar="N"),
    Flag("training.batch_size", int, ("--batch-size",), "Images a step. [default: 4]",
         TRAINING, metavar="N"),
    Flag("training.lr", float, ("--lr",), "Peak of the one-cycle learning rate. [default: 1e-3]",
         TRAINING, metavar="X"),
    Flag("training.max_batches", int, ("--max-batches",),
         "Stop each epoch after N batches, for a quick look.", TRAINING, metavar="N"),
    Flag("training.seed", int, ("--seed",), "Seed for all random numbers. [default: 42]",
         TRAINING, metavar="N"),
    Flag("training.device", _choice(get_args(DeviceName)), ("--device",),
         "Where to train: auto, cpu, cuda, mps. [default: auto]", TRAINING, metavar="NAME"),
    Flag("training.precision", _choice(get_args(Precision)), ("--precision",),
         "32, or bf16 (mixed) where the machine is quick at it. [default: 32]", TRAINING,
         metavar="P"),
    Flag("training.devices", str, ("--devices",),
         "Number of devices to train on, or auto for all. [default: 1]", TRAINING, metavar="N"),
    Flag("training.num_nodes", int, ("--num-nodes",),
         "Number of machines to train on. [default: 1]", TRAINING, metavar="N"),
    Flag("training.strategy", str, ("--strategy",),
         "Lightning's strategy for several devices, such as ddp. [default: auto]", TRAINING,
         metavar="NAME"),
)  # fmt: skip

DATA_FLAGS = (
    Flag("data.dataset", _choice(get_args(Dataset)), ("--dataset",),
         "oxford-pet (downloaded if missing) or synthetic (made on the fly). "
         "[default: oxford-pet]", DATA, metavar="NAME"),
    Flag("data.data_dir", str, ("--data-dir", "--data-path"),
         "Folder that holds oxford-iiit-pet/. [default: ./data]", DATA, metavar="DIR"),
    Flag("data.image_size", int, ("--image-size",), "Pixels a side. [default: 224]",
         DATA, metavar="N"),
    Flag("data.subset_size", int, ("--subset-size",),
         "Use only N images of trainval, and at most N of test.", DATA, metavar="N"),
    Flag("data.num_workers", int, ("--num-workers",),
         "Processes that decode images. [default: one a core, at most 8]", DATA, metavar="N"),
    Flag("data.cache_dir", str, ("--cache-dir",),
         "Where features are kept. [default: the platform's cache folder]", DATA, metavar="DIR"),
    Flag("data.use_cache", bool, ("--no-cache",),
         "Keep no features: run the backbone on every step.", DATA,
         negative="--cache", value=False),
)  # fmt: skip

RUN_FLAGS = (
    Flag("output_dir", str, ("--output-dir",), "Folder of all runs. [default: runs]",
         RUN, metavar="DIR"),
    Flag("name", str, ("--name", "--experiment-name"),
         "The run's name. [default: from quantizer and model]", RUN, metavar="NAME"),
    Flag("config", Path, ("--config",), "YAML file of experiments; flags win over it.",
         RUN, metavar="FILE"),
    Flag("experiment", str, ("--experiment",), "Which experiment of the file.",
         RUN, metavar="NAME"),
    Flag("overwrite", bool, ("--overwrite",), "Replace a run of the same name.", RUN),
    Flag("resume", bool, ("--resume",), "Go on with a stopped run (--name, or the only one).", RUN),
    Flag("dry_run", bool, ("--dry-run",), "Print the resolved configuration, do nothing.", RUN),
)  # fmt: skip

TRACKING_FLAGS = (
    Flag("logger.use_clearml", bool, ("--use-clearml",),
         "Report to a ClearML server too (docs/trackers.md).", TRACKING, negative="--no-clearml"),
    Flag("logger.project_name", str, ("--project-name",), "ClearML's project. [default: squeeze]",
         TRACKING, metavar="NAME"),
    Flag("logger.task_name", str, ("--task-name",), "ClearML's task. [default: the run's name]",
         TRACKING, metavar="NAME"),
    Flag("logger.clearml_tags", list[str], ("--clearml-tag",), "Tag of the task; may be repeated.",
         TRACKING, metavar="TAG"),
    Flag("logger.credentials_file", str, ("--credentials", "--credentials-file"),
         "File of `squeeze clearml-init`. [default: see docs/trackers.md]", TRACKING,
         metavar="FILE"),
    Flag("logger.clearml_offline", bool, ("--clearml-offline",),
         "Record the task in an archive to import later; needs no server.", TRACKING,
         negative="--no-clearml-offline"),
    Flag("logger.require_clearml", bool, ("--require-clearml",),
         "Fail where ClearML cannot be used, instead of going on without.", TRACKING,
         negative="--no-require-clearml"),
    Flag("logger.auto_connect_frameworks", bool, ("--no-auto-connect",),
         "Keep ClearML from watching PyTorch and matplotlib by itself.", TRACKING,
         negative="--auto-connect", value=False),
    Flag("logger.use_tensorboard", bool, ("--no-tensorboard",), "Write no TensorBoard events.",
         TRACKING, negative="--tensorboard", value=False),
    Flag("remote_queue", str, ("--remote-queue",),
         "Run this command on a ClearML agent that serves this queue.", TRACKING, metavar="QUEUE"),
)  # fmt: skip

OUTPUT_FLAGS = (
    Flag("json", bool, ("--json",), "Print the result as JSON on stdout.", OUTPUT),
    Flag("quiet", bool, ("--quiet",), "Say nothing but warnings and errors.", OUTPUT),
    Flag("verbose", bool, ("--verbose",), "Say more, and show tracebacks.", OUTPUT),
    Flag("no_progress", bool, ("--no-progress",), "No progress bars.", OUTPUT),
)  # fmt: skip

BASELINE_FLAGS = (
    *MODEL_FLAGS, *TRAINING_FLAGS, *DATA_FLAGS, *TRACKING_FLAGS, *RUN_FLAGS, *OUTPUT_FLAGS,
)  # fmt: skip
TRAIN_FLAGS = (*QUANTIZER_FLAGS, *BASELINE_FLAGS)


ALIASES = {
    alias.removeprefix("--"): flag.spellings[0].removeprefix("--")
    for flag in TRAIN_FLAGS
    for alias in flag.spellings[1:]
}


def normalize_token(token: str) -> str:
    """An option's name as its preferred spelling: snake_case and older names are the same option."""
    name = token.replace("_", "-")
    return ALIASES.get(name, name)


def takes(flags: Iterable[Flag]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command's function these flags: it receives them as keywords, None where left out."""
    flags = tuple(flags)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [
            p for p in inspect.signature(function, eval_str=True).parameters.values()
            if p.kind is not p.VAR_KEYWORD
        ]  # fmt: skip

        @functools.wraps(function)
        def command(**values: Any) -> None:
            function(**_with_lists(flags, _with_booleans(flags, values)))

        parameters = [*own, *(p for flag in flags for p in _parameters(flag))]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _with_booleans(flags: Iterable[Flag], values: dict[str, Any]) -> dict[str, Any]:
    """Turn on/off pairs of switches into one value each: True, False, or None for neither."""
    values = dict(values)
    for flag in flags:
        if flag.kind is not bool:
            continue
        given = values.pop(flag.parameter)
        opposite = values.pop(f"not__{flag.parameter}", False)
        if given and opposite:
            raise UsageError(f"{flag.spellings[0]} and {flag.negative} contradict each other.")
        values[flag.parameter] = flag.value if given else not flag.value if opposite else None
    return values


def _with_lists(flags: Iterable[Flag], values: dict[str, Any]) -> dict[str, Any]:
    """A flag that may be repeated becomes a tuple, None where it was never given."""
    repeated = {flag.parameter for flag in flags if flag.kind == list[str]}
    return {k: (tuple(v) if v else None) if k in repeated else v for k, v in values.items()}


def _parameters(flag: Flag) -> Iterable[inspect.Parameter]:
    text = flag.text.replace("[default", r"\[default")  # brackets are rich's markup
    kind = flag.kind
    keyword = inspect.Parameter.KEYWORD_ONLY
    if kind is bool:
        option = typer.Option(
            flag.spellings[0], help=text, rich_help_panel=flag.panel, show_default=False
        )
        yield inspect.Parameter(
            flag.parameter, keyword, default=False, annotation=Annotated[bool, option]
        )
        if flag.negative:
            hidden = typer.Option(flag.negative, hidden=True)
            yield inspect.Parameter(
                f"not__{flag.parameter}", keyword, default=False, annotation=Annotated[bool, hidden]
            )
        return
    option = typer.Option(
        flag.spellings[0],
        help=text,
        rich_help_panel=flag.panel,
        metavar=flag.metavar,
        show_default=False,
    )
    yield inspect.Parameter(
        flag.parameter, keyword, default=None, annotation=Annotated[kind | None, option]
    )


def field_option(section: type[Section], name: str, default: str | None = None) -> Any:
    """Return Typer's option for a field of the schema; `default` describes the default."""
    field = section.model_fields[name]
    flag = flag_of(name, field)
    words = default or flag.default
    return typer.Option(
        (flag.spellings or ())[0],
        help=(field.description or "") + (rf" \[default: {words}]" if words else ""),
        metavar=None if field.annotation is bool else flag.metavar,
        show_default=False,
    )


_OF_THE_RUN = "that of the run"
# Options of several commands, as annotations of plain parameters. Where a parameter is None, the
# run's own configuration decides.
RunArgument = Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)]
DataDir = Annotated[str | None, field_option(DataConfig, "data_dir", _OF_THE_RUN)]
NumWorkers = Annotated[int | None, field_option(DataConfig, "num_workers", _OF_THE_RUN)]
CacheDir = Annotated[str | None, field_option(DataConfig, "cache_dir", _OF_THE_RUN)]
UseCache = Annotated[bool | None, field_option(DataConfig, "use_cache", _OF_THE_RUN)]
BatchSize = Annotated[int | None, field_option(TrainingConfig, "batch_size", _OF_THE_RUN)]
Device = Annotated[
    DeviceName | None,
    typer.Option(
        "--device",
        help=r"Where to compute: auto, cpu, cuda or mps. \[default: that of the run]",
        metavar="NAME",
        show_default=False,
    ),
]
Credentials = Annotated[str | None, field_option(LoggerConfig, "credentials_file")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print details and tracebacks.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no progress bars.")]
