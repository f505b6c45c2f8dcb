"""Commands that are killed or interrupted while they work; `benchmarks.kills` does it more often."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.kills import WINDOWS, Place, Window, reference, stop, try_window

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
]
BY_NAME = {window.name: window for window in WINDOWS}
Reference = tuple[dict[str, Path], dict[str, float]]


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[Reference]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XDG_CACHE_HOME", raising=False)
        with reference() as found:
            yield found


def of(undisturbed: Reference, name: str) -> tuple[Window, dict[str, Path], float]:
    stock, seconds = undisturbed
    return BY_NAME[name], stock, seconds[name]


@pytest.mark.parametrize(
    "name",
    ["filling the store", "writing a checkpoint", "later epochs", "writing codes",
     "drawing figures", "extracting codes", "decoding features", "decoding masks"],
)  # fmt: skip
def test_what_was_killed_ends_as_if_nothing_had_happened(undisturbed: Reference, name: str) -> None:
    window, stock, seconds = of(undisturbed, name)
    assert try_window(window, stock, seconds, random.Random(name)) == (-signal.SIGKILL, [])


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [
        (signal.SIGINT, 130, "reading images"),
        (signal.SIGTERM, 143, "reading images"),
        (signal.SIGTERM, 143, "later epochs"),
        (signal.SIGINT, 130, "drawing figures"),
        (signal.SIGTERM, 143, "extracting features"),
        (signal.SIGINT, 130, "decoding masks"),
    ],
)
def test_what_was_interrupted_says_so_and_can_be_continued(
    undisturbed: Reference, tmp_path: Path, number: signal.Signals, code: int, name: str
) -> None:
    window, stock, seconds = of(undisturbed, name)
    draw = random.Random(name)
    for attempt in range(20):  # until a signal comes before the end
        place = Place(tmp_path / f"place-{attempt}", stock[window.command])
        if (found := stop(place, window, seconds / 2, number, draw)) is not None:
            break
    assert found == code
    said = place.said().splitlines()
    assert said[-1] == "Error: interrupted."
    assert not any("Traceback" in line for line in said)
    place.again(window)
    if window.command == "train":
        assert place.results("train") == Place(stock[""]).results("train")
