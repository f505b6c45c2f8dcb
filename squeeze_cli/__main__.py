"""squeeze on the command line, as `squeeze` and as `python -m squeeze_cli`."""

import signal
import sys
from types import FrameType

# Some packages swallow what is raised while they are imported: then it is raised again after this.
AGAIN_S = 0.2
# Windows has neither.
_ALARM, _CHILD = getattr(signal, "SIGALRM", None), getattr(signal, "SIGCHLD", None)


def main() -> None:
    """Run the command line; SIGINT ends it with 130 and SIGTERM with 143, whatever it is doing.

    Both are raised as KeyboardInterrupt, for what is to be finished or removed before the end. What
    the shell has told to be ignored stays ignored.
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
        # Workers that the same signal has ended are no errors, as torch's handler calls them.
        if _CHILD is not None:
            signal.signal(_CHILD, signal.SIG_DFL)
        raise KeyboardInterrupt

    def swallow(details: "sys.UnraisableHookArgs") -> None:
        # Python goes on after what is raised in a destructor, and prints it.
        if issubclass(details.exc_type, KeyboardInterrupt):
            swallowed.append(details.exc_type)
            _call_again(AGAIN_S)
        else:
            sys.__unraisablehook__(details)

    sys.unraisablehook = swallow
    wanted = (signal.SIGINT, signal.SIGTERM, _ALARM)
    numbers = [n for n in wanted if n is not None and signal.getsignal(n) != signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, stop)
    try:
        from squeeze_cli.cli import main as run_command

        run_command()
    except BaseException as error:
        if not stopped:
            raise
        if getattr(error, "code", None) != 130:  # the command has not said so
            print("Error: interrupted.", file=sys.stderr)  # noqa: T201 - as cli.py does
        sys.exit(128 + stopped[0])
    finally:  # while Python ends, a signal just ends it
        _call_again(0)
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _call_again(seconds: float) -> None:
    """Send this process an alarm after this time, where there are alarms; 0 takes it back."""
    if _ALARM is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a frame is that of a package which is being imported, or of what this calls."""
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


if __name__ == "__main__":
    main()
