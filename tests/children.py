"""Work in a forked process: to be killed, limited, or made another user's."""

import multiprocessing
import threading

from tqdm import tqdm

import zoo


def _child(work, queue) -> None:
    tqdm.set_lock(threading.RLock())  # its own lock is shared with the parent, and stays locked when a child is killed
    try:
        queue.put(str(work() or ""))
    except zoo.ZooError as error:
        queue.put(str(error))
    except BaseException as error:  # the parent waits for an answer
        queue.put(f"{type(error).__name__}: {error}")
        raise


def start_child(work):
    """Run something in a forked process."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(work, queue))
    process.start()
    return process, queue


def in_child(work) -> tuple[str, int]:
    process, queue = start_child(work)
    text = queue.get()
    process.join(60)
    return text, process.exitcode
