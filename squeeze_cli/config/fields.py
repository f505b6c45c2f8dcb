"""Building blocks of the schema: types of values, and the options that set them."""

import re
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
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError

from squeeze_cli.config.parts import Registry


class Section(BaseModel):
    """A section of the configuration: immutable, without unknown keys.

    Its schema is built when it is first used, so that `--help` does not pay for it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False,
        defer_build=True,
    )  # fmt: skip

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_oddities(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what pydantic would take: a number for a switch, true for a number, no text.

        A path becomes a text.
        """
        if isinstance(value, Path):
            value = str(value)
        texts = value if isinstance(value, list | tuple) else (value,)
        for text in (text for text in texts if isinstance(text, str)):
            if not text:
                raise ValueError("must not be empty")
            if re.search("[\0\ud800-\udfff]", text):  # the latter stand for bytes of no UTF-8
                raise ValueError("must be a text in UTF-8, without zero bytes")
        kind = option_type(cls.model_fields[info.field_name or ""])
        if kind is bool and not isinstance(value, bool):
            raise PydanticKnownError("bool_type")
        if kind in (int, float) and isinstance(value, bool):
            raise PydanticKnownError("int_type" if kind is int else "float_type")
        return value


def reason_of(error: Exception) -> str:
    """Return in a few words why a file cannot be read: of a model's errors, the first field and its."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        field, words = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            return f"{field} is missing"
        named = words.replace("Input", field, 1)
        return named if named != words else f"{field}: {words}".removeprefix(": ")
    return str(getattr(error, "strerror", None) or error)


def _as_list(value: object) -> object:
    if isinstance(value, list | tuple) and any(isinstance(item, bool) for item in value):
        raise ValueError("must hold numbers or texts")
    return value.split(",") if isinstance(value, str) else value


# A list, or its items in one text with commas between them.
AsList = BeforeValidator(_as_list)
# A section without a key in a YAML file is None.
AsSection = BeforeValidator(lambda value: {} if value is None else value)


@dataclass(frozen=True)
class Flag:
    """The option that sets a field: its name, and the name of its value in `--help`.

    A name of None is that of the field, "" stands for no option, and a switch may have its opposite
    after a slash. A metavar of None depends on the type.
    """

    name: str | None
    metavar: str | None


def setting(
    default: object, text: str, name: str | None = None, *, metavar: str | None = None,
    choices: Registry | None = None, **limits: Any,
) -> Any:  # fmt: skip
    """Return pydantic's field with default, description, limits and the `Flag` of its option.

    The text ends with `[default: ...]` where another choice decides the default, which is None then.
    Unless the limits say otherwise, a whole number is at most 10^6, and others fit a float32.
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


def _json_schema(choices: Registry, optional: bool) -> dict[str, Any]:
    """Return the part of a JSON schema that allows the names of a registry, or also null."""
    closed = [name for name in choices if not name.endswith(":")]
    names = {"enum": [*closed, *choices.reserved, *([None] if optional else [])]}
    patterns = [{"pattern": f"^{name}."} for name in choices if name.endswith(":")]
    return {"anyOf": [names, *patterns]} if patterns else names


def value_of(config: Section, key: str) -> Any:
    """Return the value of the field `section.field` of a configuration, or of its own `field`."""
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def choices_of(field: FieldInfo) -> Registry | None:
    """Return the parts among which a field chooses, if it does."""
    return next((item for item in field.metadata if isinstance(item, Registry)), None)


def option_type(field: FieldInfo) -> Any:
    """Return the type in which the command line gives a field's value; the schema does the rest."""
    choices = choices_of(field)
    if choices and not any(name.endswith(":") for name in choices):
        return Literal[tuple(choices)]
    kinds = [each for each in get_args(field.annotation) if each is not NoneType]
    if get_origin(field.annotation) not in (Union, UnionType):
        kinds = [field.annotation]
    if get_origin(kinds[0]) is tuple:
        return list[str] if str in get_args(kinds[0]) else str
    if len(kinds) > 1 or get_origin(kinds[0]) is Annotated:
        return str
    if isinstance(kinds[0], type) and issubclass(kinds[0], Section):
        return str  # a section is given by the name of its file
    return kinds[0]
