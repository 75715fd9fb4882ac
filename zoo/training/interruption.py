"""Ctrl-C and SIGTERM during training: the run saves at its next step and stops; the second one ends it at once."""

import os
import signal
import threading
import time
from typing import Any

from .distributed import Processes

_SAME = 1.0  # seconds; under torchrun one Ctrl-C arrives from the terminal and from torchrun


class Interrupted(KeyboardInterrupt):
    """A run has saved where it was and stopped, for it was told to.

    Attributes:
        signal: Number of the signal; a process that it ends has the exit status 128 and that.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


class Interruption:
    """A context in which SIGINT and SIGTERM are only noted, once; outside the main thread nothing changes.

    Attributes:
        signal: The number of the one that came; 0 as long as none has.
    """

    def __init__(self) -> None:
        self.signal, self._when, self._process = 0, 0.0, os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):  # of another language, or as nohup sets it
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def agree(self, processes: Processes) -> int:
        """The signal that any process of the run has been sent, for all of them; 0 if none has."""
        self.signal = max(processes.gather(self.signal))
        return self.signal

    def check(self, where: str) -> None:
        """Raise if a signal came; everything is saved.

        Args:
            where: How far the run is, for the message.

        Raises:
            Interrupted: If one came.
        """
        if self.signal:
            name = signal.Signals(self.signal).name
            raise Interrupted(f"stopped by {name} at {where}, which is saved", self.signal)

    def _note(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a worker that reads images; its parent tells it when to stop
            return
        if not self.signal:
            self.signal, self._when = number, time.monotonic()
            word = signal.Signals(number).name
            os.write(2, f"\nzoo: {word}: saving at the next step; once more to stop at once\n".encode())
        elif time.monotonic() - self._when > _SAME:
            self.__exit__()
            os.kill(self._process, number)
