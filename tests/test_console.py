from __future__ import annotations

import io

from rich.console import Console

from squeeze_cli import console
from squeeze_cli.console import Reporter


def reporter(terminal: bool = False, **kwargs: bool) -> tuple[Reporter, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    made = Reporter(
        **kwargs,
        out=Console(file=out, force_terminal=terminal, width=80),
        err=Console(file=err, force_terminal=terminal, width=80),
    )
    return made, out, err


def test_data_and_messages_go_to_different_streams() -> None:
    made, out, err = reporter()
    made.show("data")
    made.say("message [not markup]")
    assert out.getvalue() == "data\n"
    assert err.getvalue() == "message [not markup]\n"


def test_quiet_says_nothing_but_what_changes_the_result() -> None:
    made, out, err = reporter(quiet=True)
    made.show("data")
    made.say("message")
    with made.track("Work", 2) as advance:
        advance(2, "note")
    made.warn("features are random")
    assert out.getvalue() == ""
    assert err.getvalue() == "Warning: features are random\n"


def test_plain_lines_where_there_is_no_terminal(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    made, _, err = reporter()
    with made.track("Work", 4) as advance:
        advance(1, "")  # at once after the start: nothing yet
        now += console.PLAIN_INTERVAL_S
        advance(1, "halfway")
        advance(1, "")
        advance(1, "done")
    assert err.getvalue().splitlines() == ["Work 2/4  halfway", "Work 4/4  done"]


def test_a_bar_on_a_terminal_and_none_where_it_is_turned_off() -> None:
    made, _, err = reporter(terminal=True)
    with made.track("Work", 2) as advance:
        advance(1, "note")
    assert "Work" in err.getvalue()
    assert "\x1b[" in err.getvalue()
    made, _, err = reporter(terminal=True, progress=False)
    with made.track("Work", 2) as advance:
        advance(2, "note")
    assert err.getvalue() == ""
