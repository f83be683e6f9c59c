"""What stops a command from outside: Ctrl-C, and SIGTERM, by which clusters stop a job."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

_received = [signal.SIGINT]  # the signal that stops the command, once one came


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handles SIGTERM as Ctrl-C is handled: whatever is at work is interrupted and tidies up."""
    note_stop(number)
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler) and handler not in (interrupt, signal.default_int_handler):
        handler(number, frame)  # an event loop has its own
    raise KeyboardInterrupt


def note_stop(number: int) -> None:
    """Keeps which signal stops the command, which decides its exit status."""
    _received[0] = signal.Signals(number)


class StoppedExit(SystemExit):
    """The exit of a command that a signal stopped, and that has said so."""


@contextmanager
def exit_when_stopped(advise: Callable[[], str]) -> Iterator[None]:
    """Ends the process as shells and clusters expect when a signal stops the block.

    The status is 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        advise: Returns what is printed after "Stopped.".

    Raises:
        StoppedExit: If the block was stopped; Lightning makes an exit of its own of it, with another status.
    """
    before = _take_over()
    try:
        yield
    except BaseException as error:
        if isinstance(error, StoppedExit) or not _is_stop(error):
            raise
        print(f"Stopped.{advise()}", file=sys.stderr)
        raise StoppedExit(128 + _received[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_process(stopped: StoppedExit) -> NoReturn:
    """Ends the process of a stopped command, after what was registered with ``atexit``.

    The interpreter is not taken down, because the status might not be the command's: native threads that a signal
    left in the middle of their work abort it now and then (seen once in some hundred stops), and CPython remembers a
    KeyboardInterrupt that passed an ``exec`` of text (so ``dataclass`` makes its methods) and ends by SIGINT.

    Args:
        stopped: The exit of the command, whose status is the process's.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(str(stopped.code)))


def _take_over() -> dict[signal.Signals, Any]:
    """Handles SIGTERM from now on; returns the handlers to be put back, none outside of the main thread."""
    _received[0] = signal.SIGINT
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, interrupt)
    return before


def _is_stop(error: BaseException) -> bool:
    """Tells whether a signal led to an error: directly, or as what another error or exit was made of.

    A class body that is interrupted while a library is imported ends in a RuntimeError whose cause is the interrupt.
    An error that came after the interrupt, while things were tidied up, is a fault of its own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return True
        cause = cause.__cause__ or (cause.__context__ if isinstance(cause, SystemExit) else None)
    return False
