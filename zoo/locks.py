"""Locks of the operating system: they end with the process that holds them, however it ends."""

import contextlib
import errno
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import ZooError

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_BUSY = (errno.EAGAIN, errno.EACCES)
_held: set[int] = set()


@contextlib.contextmanager
def alone(file: Path, busy: str, wait: float = 0) -> Iterator[None]:
    """Hold a lock that only one process (and one thread of it) can have.

    Args:
        file: Is the lock and holds its owner's number; created with its folder, and removed in the end. A link, or
            what is no regular file, is refused.
        busy: Begins the error where somebody else has it, such as ``runs/a: a zoo train is at work there``.
        wait: Seconds to wait for others.

    Raises:
        ZooError: If another has it, in one line that names the process, or the file cannot be made.
    """
    until, existed = time.monotonic() + wait, file.parent.is_dir()
    while (lock := _try(file)) is None:
        if time.monotonic() >= until:
            raise ZooError(f"{busy} ({_owner(file)}); wait until it has ended.")
        time.sleep(0.05)
    _held.add(lock)
    try:
        yield
    finally:
        _held.discard(lock)
        with contextlib.suppress(OSError):
            file.unlink()  # while it is held: whoever has opened it meanwhile sees that it has no name any more
            if not existed:
                file.parent.rmdir()  # if nothing was written
        os.close(lock)


def _try(file: Path) -> int | None:
    """The open and locked file, or None if another has it."""
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(file, _OPEN, 0o644)
        except FileNotFoundError:  # its folder was removed in between
            continue
        except OSError as error:
            reason = "it is a link" if error.errno == errno.ELOOP else error.strerror or error
            raise ZooError(f"{file}: cannot be used as a lock ({reason}).") from None
        try:
            if not stat.S_ISREG(os.fstat(lock).st_mode):
                raise ZooError(f"{file}: cannot be used as a lock (it is no regular file). Remove it.")
            _take(lock, file)
            if os.path.samestat(os.fstat(lock), file.lstat()):
                os.ftruncate(lock, 0)
                os.write(lock, f"{os.getpid()} {socket.gethostname()}\n".encode())
                return lock
        except FileNotFoundError:  # its owner has just removed it
            pass
        except OSError as error:
            os.close(lock)
            if error.errno in _BUSY:
                return None
            raise ZooError(f"{file}: cannot be used as a lock ({error.strerror or error}).") from None
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _take(lock: int, file: Path) -> None:
    if fcntl is None:
        return msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        logging.getLogger("zoo").warning(f"{file}: this file system has no locks; see that nobody else works there.")
    return None


def _owner(file: Path) -> str:
    try:
        number, host = file.read_text(encoding="utf-8").split()[:2]
    except (OSError, ValueError):
        return "another process"
    return f"process {int(number)}" if host == socket.gethostname() else f"process {int(number)} on {host}"


def _let_go() -> None:
    """A forked child keeps no lock of its parent's, which may be killed before it."""
    for lock in _held:
        with contextlib.suppress(OSError):
            os.close(lock)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
