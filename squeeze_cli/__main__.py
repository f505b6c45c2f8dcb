"""squeeze on the command line, as `squeeze` and as `python -m squeeze_cli`."""

import signal
import sys
from collections.abc import Callable
from types import FrameType

# A signal that arrives while a package is imported is raised again after this time: some packages
# swallow what is raised then.
AGAIN_S = 0.2


def main() -> None:
    """Run the command line; SIGINT ends it with 130 and SIGTERM with 143, whatever it is doing.

    Both are raised as KeyboardInterrupt, for what is to be finished or removed before the end. What
    the shell has told to be ignored stays ignored.
    """
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        if _is_importing(frame) and hasattr(signal, "setitimer"):  # not on Windows
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise KeyboardInterrupt

    def stop_again(_: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            stop(stopped[0], frame)

    handlers: dict[int, Callable[[int, FrameType | None], None]]
    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if hasattr(signal, "SIGALRM"):
        handlers[signal.SIGALRM] = stop_again
    for number, handler in list(handlers.items()):
        if signal.getsignal(number) == signal.SIG_IGN:
            del handlers[number]
        else:
            signal.signal(number, handler)
    try:
        from squeeze_cli.cli import main as run_command

        run_command()
    except BaseException as error:
        if not stopped:
            raise
        if not isinstance(error, SystemExit):  # the command has not said so
            print("Error: interrupted.", file=sys.stderr)  # noqa: T201 - for what came before it
        sys.exit(128 + stopped[0])
    finally:  # while Python ends, a signal just ends it
        for number in handlers:
            signal.signal(number, signal.SIG_DFL if number != signal.SIGALRM else signal.SIG_IGN)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a frame is that of a package which is being imported, or of what this calls."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
