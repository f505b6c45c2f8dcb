"""Entry point of the command line, as `squeeze` and as `python -m squeeze_cli`."""

import signal
import sys
from types import FrameType

# Some packages catch every exception while they are imported: then the signal is sent again after this.
AGAIN_S = 0.2
# Windows has neither signal.
_ALARM, _CHILD = getattr(signal, "SIGALRM", None), getattr(signal, "SIGCHLD", None)


def main() -> None:
    """Run the command line; SIGINT ends it with exit code 130 and SIGTERM with 143 at any time.

    Both are raised as KeyboardInterrupt, so that files are completed or removed before the end. A
    signal that the shell has set to be ignored stays ignored.
    """
    stopped: list[int] = []
    swallowed: list[object] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            _call_again(AGAIN_S)
        elif number == _ALARM and not swallowed:
            return
        swallowed.clear()
        stopped.append(number)
        # torch's handler reports worker processes that the same signal has ended as errors.
        if _CHILD is not None:
            signal.signal(_CHILD, signal.SIG_DFL)
        raise KeyboardInterrupt

    def swallow(details: "sys.UnraisableHookArgs") -> None:
        # Python prints an exception that a destructor raises, and continues.
        if issubclass(details.exc_type, KeyboardInterrupt):
            swallowed.append(details.exc_type)
            _call_again(AGAIN_S)
        else:
            sys.__unraisablehook__(details)

    sys.unraisablehook = swallow
    handled = (signal.SIGINT, signal.SIGTERM, _ALARM)
    numbers = [n for n in handled if n is not None and signal.getsignal(n) != signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, stop)
    try:
        from squeeze_cli.cli import main as run_command

        run_command()
    except BaseException as error:
        if not stopped:
            raise
        if getattr(error, "code", None) != 130:  # cli.py has not printed it
            print("Error: interrupted.", file=sys.stderr)  # noqa: T201 - as cli.py does
        sys.exit(128 + stopped[0])
    finally:  # while Python exits, a signal has its default effect
        _call_again(0)
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _call_again(seconds: float) -> None:
    """Send this process SIGALRM after some seconds, if the system has this signal; 0 cancels it."""
    if _ALARM is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether an import is in progress below a stack frame."""
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


if __name__ == "__main__":
    main()
