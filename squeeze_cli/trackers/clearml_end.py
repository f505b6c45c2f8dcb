"""The end of a ClearML task, which may not hold the process up."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from squeeze_cli import process_end
from squeeze_cli.console import Reporter
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers.clearml_task import ClearMLSession, sdk_messages

# At the end: of silence until the server counts as gone, then for the SDK to notice.
SILENCE_SECONDS = 6.0
FAREWELL_SECONDS = 2.0
# An answer may be slow where an upload fills the line.
ANSWER_SECONDS = 3.0
# So long is no word lost about the waiting.
SHORT_SECONDS = 5.0
OFFLINE_ARCHIVE = "clearml-offline.zip"


def end_task(
    session: ClearMLSession, reporter: Reporter, status: str, last_words: Callable[[], None]
) -> str | None:
    """Say the last words and close the task; None, or why the server may not have heard them all.

    A server that answers is waited for, however long its uploads take; Ctrl-C ends the waiting,
    and nothing else. One that is silent for `SILENCE_SECONDS` is given up: its requests are
    refused from then on, and should the SDK hold on all the same, the process will end without it.
    """
    closed = threading.Event()  # a thread whose `join` is interrupted no longer counts as alive
    failures: list[str] = []

    def close() -> None:
        try:
            _close(session, status, last_words)
        except Exception as error:  # noqa: BLE001 - the SDK raises what it likes; the run is done
            failures.append(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        finally:
            closed.set()

    missed = None
    try:
        with sdk_messages(reporter):
            session.patience.insist()
            threading.Thread(target=close, name="clearml-end", daemon=True).start()
            heard = _wait_while_answered(closed, session, reporter)
        if not heard or session.patience.lost_seconds > 0:
            missed = "its server was gone"
    except KeyboardInterrupt:
        missed = "the waiting for its server was interrupted"
    session.patience.end()
    if not closed.wait(FAREWELL_SECONDS):
        process_end.leave_threads_behind()
    return missed or (failures[0] if failures else None)


def _wait_while_answered(
    closed: threading.Event, session: ClearMLSession, reporter: Reporter
) -> bool:
    """Wait until the task is closed; False where the server fell silent before it was."""
    begun = answered = time.monotonic()
    said = False
    while not closed.is_set():
        silence_left = answered + SILENCE_SECONDS - time.monotonic()
        if silence_left <= 0:
            return False
        if not closed.wait(min(1.0, silence_left)) and session.is_answered(
            min(ANSWER_SECONDS, silence_left)
        ):
            answered = time.monotonic()
            if not said and answered - begun > SHORT_SECONDS:
                said = True
                reporter.say("Waiting for ClearML to receive the rest; Ctrl-C ends the waiting.")
    return True


def keep_offline_archive(session: ClearMLSession, run: RunFolder) -> Path | None:
    """Move the recorded session from ClearML's cache into the run's folder."""
    folder = session.task.get_offline_mode_folder()
    if folder is None:
        return None
    archive = Path(f"{folder}.zip")
    if not archive.is_file() or not run.path.is_dir():
        return None
    place = run.path / OFFLINE_ARCHIVE
    shutil.move(archive, place)
    shutil.rmtree(folder, ignore_errors=True)
    return place


def _close(session: ClearMLSession, status: str, last_words: Callable[[], None]) -> None:
    try:
        last_words()
    finally:
        task = session.task
        task.close()  # the SDK calls it completed, whatever happened
        if status != "finished":
            mark = task.mark_stopped if status == "interrupted" else task.mark_failed
            mark(force=True, status_message=f"squeeze: the run {status}")
