"""Classes of a segmentation: mask values, names and colours, in the order of the head's outputs."""

import colorsys
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.config.fields import Section, first_problem
from squeeze_cli.config.yaml_files import read_yaml
from squeeze_cli.errors import UsageError

Colour = tuple[int, int, int]

# Class indices are bytes, and one of them is IGNORE_INDEX.
MOST_CLASSES = 254
# Figures draw no colour over the pixels of this class.
BACKGROUND = "background"
_EXAMPLE = "0: background, 1: {name: cat, colour: [128, 0, 0]}, ignore: [255]"
# Colours that colour-blind people can tell apart (Okabe and Ito, 2008).
_FIRST_COLOURS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233),
)  # fmt: skip


def _as_colour(value: object) -> object:
    """Turn `#rrggbb` into three numbers."""
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        return tuple(bytes.fromhex(value[1:]))
    return value


# `strict` refuses true for a number.
_Byte = Annotated[int, Field(ge=0, le=255, strict=True)]
_Colour = Annotated[tuple[_Byte, _Byte, _Byte], BeforeValidator(_as_colour)]
_Value = Annotated[int, Field(ge=0, le=65535, strict=True)]


class ClassEntry(Section):
    """One class: its value in index masks, its name, and its colour in RGB masks and figures."""

    value: _Value
    name: str = Field(pattern=r"\S")
    colour: _Colour | None = None


class ClassTable(Section):
    """Table of the classes of a data set; the index of a class is its position in the table.

    `ignore` has the values of masks, and the colours of RGB masks, that losses and metrics leave out;
    it is None until `ignoring` sets it.
    """

    classes: tuple[ClassEntry, ...] = Field(min_length=2, max_length=MOST_CLASSES)
    ignore: tuple[_Value | _Colour, ...] | None = None

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        uses: Counter[str] = Counter()
        for entry in self.classes:
            uses[f"the value {entry.value}"] += 1
            uses[f"the name {entry.name!r}"] += 1
            if entry.colour is not None:
                uses[f"the colour {list(entry.colour)}"] += 1
        for value in set(self.ignore or ()):
            kind = "value" if isinstance(value, int) else "colour"
            uses[f"the {kind} {value if isinstance(value, int) else list(value)}"] += 1
        for item, count in uses.items():
            if count > 1:
                raise ValueError(f"{item} occurs {count} times: give each one meaning")
        return self

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        """Names of the classes in order."""
        return [entry.name for entry in self.classes]

    @property
    def values(self) -> list[int]:
        """Mask values of the classes in order."""
        return [entry.value for entry in self.classes]

    @property
    def colours(self) -> list[Colour]:
        """Colours for figures in order: the colour of each entry, or a distinct one if it has none."""
        given = {entry.colour for entry in self.classes}
        fresh = (colour for colour in _distinct_colours() if colour not in given)
        return [
            entry.colour or ((240, 240, 240) if entry.name.lower() == BACKGROUND else next(fresh))
            for entry in self.classes
        ]

    def ignoring(self, index: int | None) -> Self:
        """Return the table with the value of `--ignore-index` added to its ignored values.

        -1 empties the ignored values. None adds 255, unless the table has `ignore` or a class of
        value 255. Raises UsageError for the value of a class.
        """
        if index in self.values:
            name = self.names[self.values.index(index)]
            raise UsageError(
                f"--ignore-index {index} is the value of the class {name!r}: take the class out of "
                "--classes, or give another value."
            )
        decided = index is None and (self.ignore is not None or IGNORE_INDEX in self.values)
        ignored = () if index == -1 else self.ignore or ()
        added = () if decided else ignored_values(index)
        return self.model_copy(
            update={"ignore": (*ignored, *(value for value in added if value not in ignored))}
        )


def ignored_values(index: int | None) -> tuple[int, ...]:
    """Return the mask values that `--ignore-index` ignores: 255 for None, and no value for -1."""
    if index is None:
        index = IGNORE_INDEX
    return () if index == -1 else (index,)


def _distinct_colours() -> Iterable[Colour]:
    yield from _FIRST_COLOURS
    for index in range(1024):  # the golden ratio spreads hues evenly, however many there are
        red, green, blue = colorsys.hsv_to_rgb(
            index * 0.618034 % 1, (0.55, 0.85)[index % 2], (0.9, 0.65, 0.45)[index % 3]
        )
        yield round(255 * red), round(255 * green), round(255 * blue)


def read_classes(value: object) -> ClassTable | None:
    """Return the table of classes in a YAML file, given by its name, or in a mapping.

    The file maps mask values to names, or to mappings with `name` and `colour`; `ignore` lists the
    ignored values. A run's configuration has the fields of a `ClassTable`. Raises UsageError, one line,
    for anything else.
    """
    if value is None or isinstance(value, ClassTable):
        return value
    where, content = "data.classes", value
    if isinstance(value, str):
        where, content = value, read_yaml(Path(value), f"`{_EXAMPLE}`")
    if not isinstance(content, Mapping):
        raise UsageError(f"{where} must map mask values to names, such as `{_EXAMPLE}`.")
    fields = _long_form(content, where)
    try:
        return ClassTable.model_validate(fields)
    except ValidationError as error:
        problem, words = first_problem(error)
    match problem["loc"]:
        case ("classes",):
            words = f"a table has 2 to {MOST_CLASSES} classes"
        case ("ignore", *_):
            words = "`ignore` must list mask values from 0 to 65535, or colours"
        case ("classes", index, *keys):
            entry = fields["classes"][index]  # type: ignore[index]
            value = entry.get("value") if isinstance(entry, Mapping) else entry
            if "colour" in keys:
                words = "must be three numbers from 0 to 255, or '#rrggbb'"
            elif problem["type"] == "extra_forbidden":
                words = "unknown key; a class has `name` and `colour`"
            elif problem["type"] == "string_type":
                words += ", in quotes if YAML reads it as another type"
            words = f"{'.'.join([f'class {value}', *map(str, keys[:1])])}: {words}"
        case (key,):
            words = f"{key!r} is an unknown key beside `classes` and `ignore`"
    raise UsageError(f"{where}: {words} (such as `{_EXAMPLE}`).")


def classes_to_yaml(table: ClassTable) -> str:
    """Return the YAML text of a table for masks of class indices, which `read_classes` reads."""
    import yaml

    content: dict[object, object] = {
        index: {"name": name, "colour": list(colour)}
        for index, (name, colour) in enumerate(zip(table.names, table.colours, strict=True))
    }
    return yaml.safe_dump(
        {**content, "ignore": []}, default_flow_style=None, sort_keys=False, allow_unicode=True
    )


def _long_form(content: Mapping[object, object], where: str) -> dict[str, object]:
    """Return the fields of a `ClassTable` for a mapping in either form."""
    if "classes" in content:
        return {str(key): value for key, value in content.items()}
    entries = []
    for key, value in content.items():
        if key == "ignore":
            continue
        if isinstance(key, bool) or not re.fullmatch("0|[1-9][0-9]{0,8}", str(key)):
            raise UsageError(
                f"{where}: {key!r} is not a mask value: keys are whole numbers, without leading zeros, "
                f"or `ignore`, such as `{_EXAMPLE}`."
            )
        described = value if isinstance(value, Mapping) else {"name": value}
        if "value" in described:
            raise UsageError(f"{where}: class {key}: `value` is an unknown key: remove it.")
        entries.append({"value": int(str(key)), **described})
    ignored = content.get("ignore")
    return {"classes": entries, "ignore": [ignored] if isinstance(ignored, int) else ignored}
