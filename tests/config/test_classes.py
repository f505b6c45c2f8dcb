from __future__ import annotations

from pathlib import Path

import pytest

from squeeze_cli.config.classes import ClassTable, read_classes
from squeeze_cli.config.schema import DataConfig
from squeeze_cli.errors import UsageError


def table(content: object) -> ClassTable:
    read = read_classes(content)
    assert isinstance(read, ClassTable)
    return read


def test_a_file_maps_values_to_names_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(
        "11: background\n4: {name: cat, colour: [128, 0, 0]}\n7: {name: dog, colour: '#00ff10'}\n"
        "ignore: [255, [224, 224, 192]]\n"
    )
    classes = table(str(path))
    assert (classes.values, classes.names) == ([11, 4, 7], ["background", "cat", "dog"])
    assert classes.colours == [(240, 240, 240), (128, 0, 0), (0, 255, 16)]
    assert classes.ignore == (255, (224, 224, 192))
    assert table(classes.model_dump(mode="json")) == classes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({0: "a"}, "a table has 2 to 254 classes"),
        ({}, "a table has 2 to 254 classes"),
        ({value: str(value) for value in range(255)}, "a table has 2 to 254 classes"),
        ({0: "a", 1: "a"}, "the name 'a' occurs 2 times"),
        ({0: {"name": "a", "colour": [1, 2, 3]}, 1: {"name": "b", "colour": "#010203"}},
         r"the colour \[1, 2, 3\] occurs 2 times"),
        ({0: "a", 1: "b", "ignore": [1]}, "the value 1 occurs 2 times"),
        ({0: "a", 1: {"name": "b", "color": [1, 2, 3]}}, "class 1.color: unknown key"),
        ({0: "a", 1: {"name": "b", "colour": [1, 2]}}, "class 1.colour: must be three numbers"),
        ({0: "a", 1: {"name": "b", "colour": "red"}}, "class 1.colour: must be three numbers"),
        ({0: "a", 1: {"name": "b", "value": 3}}, "class 1: .*value"),
        ({0: "a", 1: None}, "class 1.name: must be a text"),
        ({0: "a", True: "b"}, "True is not a mask value"),
        ({0: "a", "other": "b"}, "'other' is not a mask value"),
        ({0: "a", 70000: "b"}, "class 70000.value"),
        ({"classes": [5, 6]}, "class 5"),
        ({"classes": [{"value": 0, "name": "a"}, {"value": 1, "name": "b"}], "colour": 3},
         "'colour' is an unknown key beside `classes`"),
        ({0: "a", "01": "b"}, "'01' is not a mask value"),
        ({0: "a", 1: "b", "ignore": True}, "`ignore` must list mask values"),
        ({0: "a", 1: "b", "ignore": [[0, 0, True]]}, "`ignore` must list mask values"),
        ({0: "a", 1: {"name": "b", "colour": [True, 0, 0]}}, "class 1.colour: must be three numbers"),
        (["a", "b"], "must map mask values to names"),
    ],
)  # fmt: skip
def test_a_table_that_means_nothing_is_one_line(content: object, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        read_classes(content)
    assert "\n" not in str(caught.value)
    assert "data.classes" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read .*missing\.yaml"):
        read_classes(str(tmp_path / "missing.yaml"))
    path = tmp_path / "twice.yaml"
    path.write_text("0: a\n1: b\n0: c\n")
    with pytest.raises(UsageError, match=r"twice\.yaml, line 3: '0' occurs twice"):
        read_classes(str(path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0: a\n1: b\n0x1: c\n", "'0x1' is not a mask value"),
        ("0: a\n1: b\n01: c\n", "'01' is not a mask value: .* without leading zeros"),
        ("0: a\n010: b\n", "'010' is not a mask value: .* without leading zeros"),
        ("0: a\n1: {name: b, colour: [010, 0, 0]}\n", "line 2: write 010 without leading zeros"),
        ("0: a\n08: b\n", "'08' is not a mask value"),
        ("0: a\n1: b\n'1': c\n", "line 3: '1' occurs twice"),
        (f"0: a\n{'9' * 500}: b\n", "9' is not a mask value"),
    ],
)
def test_keys_that_are_one_number_are_never_dropped(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=rf"c\.yaml.*{reason}"):
        read_classes(str(tmp_path / "c.yaml"))


def test_merged_keys_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "0: &a {name: a, colour: [1, 2, 3]}\n1: {<<: *a, name: b, colour: [3, 2, 1]}\n"
    )
    assert table(str(tmp_path / "c.yaml")).colours == [(1, 2, 3), (3, 2, 1)]


@pytest.mark.parametrize(
    ("ignore", "index", "expected"),
    [
        (None, None, (255,)), (None, -1, ()), (None, 7, (7,)),
        ([3], None, (3,)), ([3], 7, (3, 7)), ([3], -1, ()),
    ],
)  # fmt: skip
def test_ignore_index_joins_the_ignored_values(
    ignore: list[int] | None, index: int | None, expected: tuple[int, ...]
) -> None:
    classes = table({0: "a", 1: "b", "ignore": ignore}).ignoring(index)
    assert classes.ignore == expected
    assert classes.ignoring(index) == classes


def test_a_class_is_never_ignored_by_the_option() -> None:
    classes = table({0: "a", 1: "b"})
    with pytest.raises(UsageError, match="--ignore-index 1 is the value of the class 'b'"):
        DataConfig(ignore_index=1, classes=classes)


def test_255_is_a_class_where_the_table_says_so() -> None:
    assert table({0: "a", 255: "b"}).ignoring(None).ignore == ()


def test_colours_are_distinct_for_any_number_of_classes() -> None:
    named: dict[object, object] = {value: f"c{value}" for value in range(1, 254)}
    classes = table({0: {"name": "a", "colour": [0, 114, 178]}, **named})
    assert len(set(classes.colours)) == len(classes) == 254
