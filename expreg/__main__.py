"""The command `expreg`, also as `python -m expreg`: ready for a signal before anything large is imported."""

import os
import signal
import sys


def main() -> None:
    """Run the command line; from here on a signal ends it with exit code 75."""
    if os.name != "posix":
        sys.exit("expreg needs Linux or macOS: a run rests on flock; on Windows use WSL")
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    for number in signals:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup
            signal.signal(number, _end)
    from expreg import cli

    try:
        cli.main()
    finally:  # the exit code is known; while the interpreter ends, a signal would kill it with another one
        for number in signals:
            signal.signal(number, signal.SIG_IGN)


def _end(number: int, _: object) -> None:
    try:
        os.write(2, f"{signal.Signals(number).name}: interrupted\n".encode())
    finally:
        os._exit(75)


if __name__ == "__main__":
    main()
