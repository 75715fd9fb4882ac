"""Work in a forked process: to be killed, limited, or made another user's."""

import multiprocessing
import threading

import torch
from tqdm import tqdm

import zoo


def _child(work, queue) -> None:
    torch.set_num_threads(1)  # the parent's threads are not there, and OpenMP would wait for them
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
