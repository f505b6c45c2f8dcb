"""Cases of YAML files: what they cannot mean is one line, and no file makes squeeze hang."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.cases.table import Case

_AS = "train --config c.yaml --dry-run"
_LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
_MERGES = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9))


def text(content: str | bytes, name: str = "c.yaml") -> Callable[[Path], object]:
    """Make a function that writes a file."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def experiment(name: str, content: str | bytes, *says: str, code: int = 2) -> Case:
    """Return the case of an experiment's file with this content."""
    return Case(name, _AS, code, says, make=text(content))


def classes(name: str, content: str | bytes, *says: str) -> Case:
    """Return the case of a table of classes with this content, which is refused."""
    command = "train {T} --images images --masks masks --classes t.yaml"
    return Case(name, command, 2, ("t.yaml", *says), uses=("images", "masks"),
                make=text(content, "t.yaml"))  # fmt: skip


ROWS = (
    experiment("a second section", "training: {lr: 0.1}\ndata: {}\ntraining: {epochs: 2}\n",
               "c.yaml, line 3: 'training' occurs twice"),
    experiment("a second key in a section", "training:\n  epochs: 1\n  epochs: 2\n",
               "c.yaml, line 3: 'epochs' occurs twice"),
    experiment("a second experiment", "experiments:\n  a: {}\n  a: {}\n", "line 3: 'a'"),
    experiment("a key twice, with and without quotes", "training: {}\n'training': {}", "line 2"),
    experiment("a key that YAML 1.1 calls true", "on: 1", "Unknown key 'on'"),
    experiment("a key that is a number", "1: {}", "Unknown key '1'"),
    experiment("a key that is a list", "? [a, b]\n: 1", "line 1: a key must be a text"),
    experiment("a key without a value in braces", "training: {epochs, lr}", "training."),
    experiment("a month 13", "training: {epochs: 2024-13-45}", "training.epochs", "2024-13-45"),
    experiment("a date for a number", "training: {epochs: 2024-01-05}", "must be a whole number"),
    experiment("a date for a list", "quantizer: {levels: 2024-01-05}", "quantizer.levels"),
    experiment("a time of day", "training: {epochs: 1:30}", "line 1: write 1:30 without"),
    experiment("a fraction of a minute", "training: {lr: 0:00.5}", "write 0:00.5 without"),
    experiment("leading zeros", "training: {epochs: 010}", "write 010 without leading zeros"),
    experiment("a tag", "training: {seed: !!int x}", "line 1: tags (!) are not supported"),
    experiment("a tag of Python", "a: !!python/object/apply:os.abort []", "tags (!)"),
    experiment("a tag on a mapping", "!!omap\n- a: 1", "tags (!)"),
    experiment("5,000 digits", f"training: {{seed: {'9' * 5000}}}", "has 5,000 digits"),
    experiment("a fraction of 5,000 digits", f"training: {{lr: 0.{'9' * 5000}}}", "digits"),
    experiment("an infinite number", "training: {lr: .inf}", "training.lr"),
    experiment("a number beyond floats", "training: {lr: 1e999}", "training.lr"),
    experiment("no number", "quantizer: {decay: .nan}", "quantizer.decay"),
    experiment("2,000 lists in lists", f"training: {'[' * 2000}{']' * 2000}", "nested too deeply"),
    experiment("100,000 open brackets", "[" * 100_000, "c.yaml"),
    experiment("mappings in mappings", "".join(f"{' ' * n}a:\n" for n in range(400)), "deeply"),
    experiment("aliases of aliases", f"a0: &a0 [x]\n{_LAUGHS}", "those of aliases included"),
    experiment("merges of merges", f"a0: &a0 {{k: x}}\n{_MERGES}", "those of aliases included"),
    experiment("an alias within its own value", "a: &a [*a]", "within its own value"),
    experiment("an unknown alias", "a: *b", "is not valid YAML", "undefined alias 'b'"),
    experiment("a tab", "training:\n\tepochs: 1", "line 2 is not valid YAML"),
    experiment("a zero byte", "training: {epochs: 1}\n\0", "is not valid YAML"),
    experiment("two documents", "a: 1\n---\nb: 1", "line 2", "another document"),
    experiment("UTF-16", "training: {epochs: 1}".encode("utf-16"), "not encoded in UTF-8"),
    experiment("Latin-1", "name: café".encode("latin-1"), "not encoded in UTF-8"),
    experiment("an empty file", "", "must hold a mapping"),
    experiment("comments alone", "# epochs: 2\n", "must hold a mapping"),
    experiment("a list", "[]", "must hold a mapping"),
    experiment("no", "no", "must hold a mapping"),
    experiment("100 MB", b"a: " + b"x" * 10**8, "has more than"),
    experiment("a list of 100,000 numbers", f"a: [{'1,' * 100_000}1]", "more than 50,000 values"),
    experiment("a long unknown key", f"{'k' * 1000}: 1", "Unknown key"),
    experiment("a long value", f"training: {{epochs: {'x' * 100_000}}}", "training.epochs"),
    experiment("a zero byte in a path", 'data: {data_dir: "a\\0b"}', "data.data_dir"),
    experiment("half a character in a path", 'data: {data_dir: "\\ud800"}', "data.data_dir"),
    experiment("an empty path", "data: {data_dir: ''}", "data.data_dir must not be empty"),
    experiment("an experiment that is no mapping", "experiments: {a: false}", "--experiment"),
    Case("an experiment that is false", f"{_AS} --experiment a", 2, ("a",),
         make=text("experiments: {a: false}")),
    Case("an experiment that is a number", f"{_AS} --experiment 1", says=("epochs: 3",),
         make=text("experiments: {1: {training: {epochs: 3}}, on: {}}")),
    Case("an experiment that is a switch", f"{_AS} --experiment on", says=("epochs: 3",),
         make=text("experiments: {1: {}, on: {training: {epochs: 3}}}")),
    Case("an experiment that is a date", f"{_AS} --experiment 2024-01-05", says=("epochs: 3",),
         make=text("experiments: {2024-01-05: {training: {epochs: 3}}}")),
    Case("experiments that are numbers, none chosen", _AS, 2, ("one of 1, 2",),
         make=text("experiments: {1: {}, 2: {}}")),
    Case("a merge and what it overrides", _AS, says=("epochs: 3", "lr: 0.02"),
         make=text("training:\n  <<: {epochs: 2, lr: 0.02}\n  epochs: 3\n")),
    Case("a byte-order mark", _AS, says=("epochs: 3",),
         make=text("\ufefftraining: {epochs: 3}\r\n")),
    Case("a folder for a file", _AS, 2, ("c.yaml: Is a directory",),
         make=lambda folder: (folder / "c.yaml").mkdir()),
    Case("a FIFO for a file", _AS, 2, ("c.yaml: it is not a regular file",),
         make=lambda folder: os.mkfifo(folder / "c.yaml")),
    Case("a device for a file", "train --config /dev/zero --dry-run", 2, ("not a regular file",)),
    Case("a link to itself", _AS, 2, ("c.yaml",),
         make=lambda folder: (folder / "c.yaml").symlink_to("c.yaml")),
    classes("classes: a second value", "0: a\n1: b\n0: c\n", "line 3: '0' occurs twice"),
    classes("classes: a value in hexadecimal", "0: a\n0x1: b\n", "'0x1' is not a mask value"),
    classes("classes: a switch for a value", "0: a\nyes: b\n", "'yes' is not a mask value"),
    classes("classes: a switch for a name", "0: a\n1: no\n", "class 1.name: must be a text, in quotes"),
    classes("classes: a huge value", f"0: a\n{'9' * 500}: b\n", "is not a mask value"),
    classes("classes: aliases of aliases", f"a0: &a0 [x]\n{_LAUGHS}", "those of aliases"),
    classes("classes: a name with half a character", '0: a\n1: "\\udcff"\n', "class 1.name"),
    classes("classes: an empty file", "", "must hold a mapping"),
    Case("classes: a FIFO", "train {T} --images images --masks masks --classes t.yaml", 2,
         ("t.yaml: it is not a regular file",), uses=("images", "masks"),
         make=lambda folder: os.mkfifo(folder / "t.yaml")),
    Case("credentials: tags", "train {T} --use-clearml --require-clearml --credentials c.yaml "
         "--data-dir pets", 1, ("c.yaml",), ("hunter2",), uses=("pets",),
         make=text("api_key: !!python/name:os.system hunter2\n")),
    Case("credentials: aliases of aliases", "train {T} --use-clearml --require-clearml "
         "--credentials c.yaml --data-dir pets", 1, ("c.yaml",), uses=("pets",),
         make=text(f"a0: &a0 [x]\n{_LAUGHS}")),
    Case("classes: names that colour and fill a terminal",
         "train {T} --images images --masks masks --classes c.yaml", 0, (r"a\x1b[31mred", f"{'x' * 39}…"),
         ("\x1b", "x" * 40), uses=("images", "masks"),
         make=text(f'0: "a\\e[31mred"\n1: {"x" * 5000}\n')),
)  # fmt: skip
