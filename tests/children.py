"""Work in a forked process: to be killed, limited, or made another user's; and code in processes without zoo."""

import json
import multiprocessing
import subprocess
import sys
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


SERVER = """
import json, os, sys
exec(sys.argv[1])
for code in json.loads(sys.argv[2]):
    read, write = os.pipe()
    if not os.fork():
        os.dup2(write, 1), os.dup2(write, 2), os.close(read), os.close(write)
        exec(code, {"__name__": "__main__"})
        sys.exit()
    os.close(write)
    with open(read) as said:
        print(json.dumps([said.read(), os.waitstatus_to_exitcode(os.wait()[1])]), flush=True)
"""


def after_import(imports: str, codes: list[str], *flags: str, **options) -> list[tuple[str, int]]:
    """Run each code in a process of its own, which has imported no more than ``imports``; these take seconds, once.

    Returns:
        What each printed, on both streams, and its exit code.
    """
    words = [sys.executable, *flags, "-c", SERVER, imports, json.dumps(codes)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300, **options)
    assert run.returncode == 0, run.stderr
    return [tuple(json.loads(line)) for line in run.stdout.splitlines()]
