"""Building blocks of the schema: types of values, flags, and errors of one line."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError
from pydantic.fields import FieldInfo

from squeeze_cli.errors import UsageError, nearest

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """A section of the configuration: immutable, without unknown keys.

    Its schema is built when it is first used, so that `--help` does not pay for it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False,
        defer_build=True,
    )  # fmt: skip


def _number(value: object, kind: type[int] | type[float], words: str) -> int | float | None:
    """Return the number that `value` is or says: YAML reads 1e-4 as text. Refuse booleans."""
    if value is None:  # the field's type says whether it may be
        return None
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            if kind is float or float(value).is_integer():
                return kind(float(value))
    raise ValueError(f"must be {words}")


def _count(value: object) -> object:
    words = "1 or more, or auto"
    if value != "auto" and (_number(value, int, words) or 0) < 1:
        raise ValueError(f"must be {words}")
    return value


AsWhole = BeforeValidator(lambda value: _number(value, int, "a whole number"))
AsReal = BeforeValidator(lambda value: _number(value, float, "a number"))
Whole = Annotated[int, AsWhole]
WholeOrNone = Annotated[int | None, AsWhole]
Real = Annotated[float, AsReal]
RealOrNone = Annotated[float | None, AsReal]
Switch = Annotated[bool, Strict()]
Count = Annotated[int | Literal["auto"], BeforeValidator(_count)]
# A list, or its items in one text with commas between them.
AsList = BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)
# A section without a key in a YAML file is None.
AsSection = BeforeValidator(lambda value: {} if value is None else value)


@dataclass(frozen=True)
class Flag:
    """The option that sets a field.

    Attributes:
        spellings: The long names, the preferred one first; a switch has its opposite after a slash.
            None stands for the field's name, no spellings for a field without an option.
        metavar: The name of the value in `--help`; None decides by type.
        default: Words for a default that other choices decide.
    """

    spellings: tuple[str, ...] | None = None
    metavar: str | None = None
    default: str | None = None


NO_FLAG = Flag(spellings=())
FIELD_METAVARS = {int: "N", float: "X"}


def option_type(field: FieldInfo) -> Any:
    """Return the type in which the command line gives a field's value; the schema does the rest."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and isinstance(names := extra.get("enum"), list):
        return Literal[tuple(names)]
    kinds = [field.annotation]
    if get_origin(field.annotation) in (Union, UnionType):
        kinds = [each for each in get_args(field.annotation) if each is not NoneType]
    if get_origin(kinds[0]) is tuple:
        return list[str] if get_args(kinds[0])[0] is str else str
    return kinds[0] if len(kinds) == 1 else str


def flag_of(name: str, field: FieldInfo) -> Flag:
    """Return the flag of the field `name`, with spellings and metavar filled in."""
    flag = next((item for item in field.metadata if isinstance(item, Flag)), Flag())
    kind, dashed = option_type(field), name.replace("_", "-")
    own = f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}"
    return replace(
        flag,
        spellings=(own,) if flag.spellings is None else flag.spellings,
        metavar=flag.metavar or FIELD_METAVARS.get(kind, "NAME"),
    )


def spelling(name: str, field: FieldInfo) -> str:
    """Return the option of a field as a message names it."""
    spellings = flag_of(name, field).spellings
    return spellings[0].partition("/")[0] if spellings else name


def parse(model: type[M], values: object, where: str = "", as_flags: bool = False) -> M:
    """Validate `values`, a mapping of fields, as a `model`.

    Args:
        model: The class to make.
        values: The fields; nested models are mappings.
        where: The file or place that the values come from, for messages.
        as_flags: Whether messages name options (`--epochs`) or keys (`training.epochs`).

    Raises:
        UsageError: One line that names the first wrong value, or an unknown key and the nearest one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(_first_problem(model, error, where, as_flags)) from None


_WORDS = {
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be below {lt}",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must not be empty",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "model_type": "must be a mapping of keys to values",
    "invalid_key": "must have keys of text",
}


def _first_problem(
    model: type[BaseModel], error: ValidationError, where: str, as_flags: bool
) -> str:
    problem = error.errors(include_url=False)[0]
    keys = [key for key in problem["loc"] if isinstance(key, str)]
    *sections, name = keys or [""]
    for section in sections:
        model = option_type(model.model_fields[section])
    field = model.model_fields.get(name)
    if problem["type"] == "extra_forbidden":
        place = ": ".join(filter(None, (where, *sections))) or "the configuration"
        return f"Unknown key {name!r} in {place}: {nearest(name, model.model_fields)}"
    subject = spelling(name, field) if as_flags and field else ".".join(keys)
    if len(problem["loc"]) > len(keys) and problem["type"] != "invalid_key":
        subject = f"each of {subject}"
    words = _WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    words = words.format(**problem.get("ctx", {})).replace("Input should be", "must be")
    if field and isinstance(field.default, (int, float, tuple)) and field.annotation is not bool:
        items = field.default if isinstance(field.default, tuple) else (field.default,)
        words += f" (such as {','.join(map(str, items))})" if items else ""
    return f"{': '.join(filter(None, (where, subject)))} {words}, not {problem['input']!r}."
