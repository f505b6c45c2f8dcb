"""Building blocks of the schema: types of values, their options, and words for wrong values."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticKnownError

from squeeze_cli.config.parts import Registry

Size = tuple[int, int]  # height and width
SIDES_PX = range(32, 8193)
# Words that follow the name of a field, by pydantic's type of the error.
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is an unknown key",
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be below {lt}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "string_pattern_mismatch": "must be a valid name",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "must have {min_length} or more items",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be {expected}",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "invalid_key": "must have keys of text",
}


class Section(BaseModel):
    """Base of the sections of the configuration: immutable, without unknown keys.

    Its schema is built when it is first used, because building it would slow down `--help`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False,
        defer_build=True,
    )  # fmt: skip

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_oddities(cls, value: object, info: ValidationInfo) -> object:
        """Refuse values that pydantic accepts: 1 for a switch, true for a number, an empty text.

        A path becomes a text.
        """
        if isinstance(value, Path):
            value = str(value)
        texts = value if isinstance(value, list | tuple) else (value,)
        for text in (text for text in texts if isinstance(text, str)):
            if not text:
                raise ValueError("must not be empty")
            if re.search("[\0\ud800-\udfff]", text):  # surrogates stand for invalid bytes
                raise ValueError("must be a text in UTF-8, without zero bytes")
        kind = option_type(cls.model_fields[info.field_name or ""])
        if kind is bool and not isinstance(value, bool):
            raise PydanticKnownError("bool_type")
        if kind in (int, float) and isinstance(value, bool):
            raise PydanticKnownError("int_type" if kind is int else "float_type")
        return value


def first_problem(error: ValidationError) -> tuple[ErrorDetails, str]:
    """Return the first error of a model, and words for it that follow the name of its field."""
    problem = error.errors(include_url=False)[0]
    words = _WORDS.get(problem["type"], "").format(**problem.get("ctx", {}))
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return problem, words or message


def reason_of(error: Exception) -> str:
    """Return the reason why a file cannot be read, without the file's name."""
    if isinstance(error, ValidationError):
        problem, words = first_problem(error)
        return " ".join([".".join(map(str, problem["loc"])), words]).strip()
    return str(getattr(error, "strerror", None) or error)


def _as_list(value: object) -> object:
    if isinstance(value, list | tuple) and any(isinstance(item, bool) for item in value):
        raise ValueError("must hold numbers or texts")
    return value.split(",") if isinstance(value, str) else value


# A field of several items takes a list, or one text with commas between the items.
AsList = BeforeValidator(_as_list)
# YAML reads a section without keys as None.
AsSection = BeforeValidator(lambda value: {} if value is None else value)


@dataclass(frozen=True)
class Flag:
    """Option that sets a field: its name, and the placeholder (metavar) of its value in `--help`.

    The name is None for an option with the field's name, "" for no option; the name of a switch may
    hold its opposite after a slash. A metavar of None is chosen by the field's type.
    """

    name: str | None
    metavar: str | None


def setting(
    default: object, text: str, name: str | None = None, *, metavar: str | None = None,
    choices: Registry | None = None, **limits: Any,
) -> Any:  # fmt: skip
    """Return pydantic's field with default, description, limits and the `Flag` of its option.

    The text ends with `[default: ...]` where the default is None because another field decides it.
    A number with a lower limit alone gets an upper one: 10^6, or 1e38 (in float32's range) for a float.
    """
    if limits.keys() & {"ge", "gt"} and not limits.keys() & {"le", "lt"}:
        limits["le"] = 1e38 if isinstance(default, float) else 10**6
    metadata: list[object] = [Flag(name, metavar)]
    if choices is not None:
        text, bracket, words = text.partition(" [default: ")
        text = f"{text}: {', '.join(choices.names)}.{bracket}{words}"
        limits["json_schema_extra"] = _json_schema(choices, optional=default is None)
        metadata.append(choices)
        metadata.append(AfterValidator(lambda name: None if name is None else choices.check(name)))
    field: FieldInfo = Field(default, description=text, **limits)
    field.metadata += metadata
    return field


def _json_schema(choices: Registry, optional: bool) -> dict[str, object]:
    """Return the JSON schema of a field that takes a name of a registry, and null if `optional`."""
    closed = [name for name in choices if not name.endswith(":")]
    names: dict[str, object] = {"enum": [*closed, *choices.reserved, *([None] if optional else [])]}
    patterns = [{"pattern": f"^{name}."} for name in choices if name.endswith(":")]
    return {"anyOf": [names, *patterns]} if patterns else names


def value_of(config: Section, key: str) -> object:
    """Return a configuration's value for a key `section.field`, or `field` outside the sections."""
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def choices_of(field: FieldInfo) -> Registry | None:
    """Return the registry of a field that takes the name of a part, None for other fields."""
    return next((item for item in field.metadata if isinstance(item, Registry)), None)


def option_type(field: FieldInfo) -> Any:
    """Return the type of a field's option on the command line; the schema converts its value."""
    choices = choices_of(field)
    if choices and not any(name.endswith(":") for name in choices):
        return Literal[tuple(choices)]
    kinds = [each for each in get_args(field.annotation) if each is not NoneType]
    if get_origin(field.annotation) not in (Union, UnionType):
        kinds = [field.annotation]
    if len(kinds) == 1 and (kinds[0] in (bool, int, float) or get_origin(kinds[0]) is Literal):
        return kinds[0]
    return list[str] if get_origin(kinds[0]) is tuple and str in get_args(kinds[0]) else str


def short_size(sides: Sequence[int]) -> int | list[int]:
    """Return a size in the form of JSON files: the side of a square, or height and width."""
    return sides[0] if len(set(sides)) == 1 else list(sides)


def size_text(size: int | Sequence[int]) -> str:
    """Return a size in the form of `--image-size`: `224`, or `480x640`."""
    short = size if isinstance(size, int) else short_size(size)
    return str(short) if isinstance(short, int) else "x".join(map(str, short))


def _check_size(value: object) -> int | str:
    """Return the side of a square, or the text `HxW` where the sides differ."""
    sides = str(value).split("x")
    if len(sides) > 2 or not all(
        side.isdecimal() and len(side) < 6 and int(side) in SIDES_PX for side in sides
    ):
        raise ValueError(
            "must be a side in pixels or height x width, such as 480x640, each "
            f"{SIDES_PX[0]} to {SIDES_PX[-1]}"
        )
    text = size_text([int(side) for side in sides])
    return int(text) if text.isdecimal() else text


ImageSize = Annotated[
    int | str,
    BeforeValidator(_check_size),
    WithJsonSchema({"anyOf": [
        {"type": "integer", "minimum": SIDES_PX[0], "maximum": SIDES_PX[-1]},
        {"type": "string", "pattern": "^[0-9]+(x[0-9]+)?$"},
    ]}),
]  # fmt: skip
