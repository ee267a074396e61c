"""Signals inside one process; what they do to a whole run is in test_cli.py."""

import os
import signal
import subprocess
import sys
import threading

from expreg.core.engine.interrupt import SIGNALS, graceful, handled


def test_the_first_signal_is_a_request_and_handlers_come_back(capfd) -> None:
    for number in SIGNALS:
        before = [signal.getsignal(each) for each in SIGNALS]
        with graceful() as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
        assert [signal.getsignal(each) for each in SIGNALS] == before
    assert capfd.readouterr().err.count("stopping after this slice; the next signal ends at once\n") == len(SIGNALS)


def test_the_second_signal_ends_the_process() -> None:
    code = """
import os, signal
from expreg.core.engine.interrupt import graceful
with graceful() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop()
    os.kill(os.getpid(), signal.SIGINT)
os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert done.stderr.splitlines()[1:] == ["SIGINT: stopped at once; what was stored is safe"]


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with graceful() as stop:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_signals_to_the_caller() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with handled(lambda *_: None), graceful() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
