"""Worker processes that fill batches in shared memory. They start no JAX backend."""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax
import numpy as np

from ._loader import Loader


class Slots:
    """Batches in memory that processes share, `count` of them."""

    def __init__(self, context: Any, count: int, pixels: tuple[int, ...], tokens: tuple[int, ...]):
        self._shapes = (count, *pixels), (count, *tokens)
        sizes = (int(np.prod(shape)) for shape in self._shapes)
        self._memory = tuple(
            context.RawArray(kind, size)
            for kind, size in zip((ctypes.c_uint8, ctypes.c_int32), sizes, strict=True)
        )

    def arrays(self) -> list[np.ndarray]:
        """Views of the memory: pixels, uint8, and tokens, int32."""
        return [
            np.frombuffer(memory, dtype).reshape(shape)
            for memory, dtype, shape in zip(
                self._memory, (np.uint8, np.int32), self._shapes, strict=True
            )
        ]


class Workers:
    """Processes that run a loader's `fill` on rows of slots, seen here as `arrays`."""

    def __init__(
        self,
        loader: Loader,
        num_workers: int,
        num_slots: int,
        pixels: tuple[int, ...],
        tokens: tuple[int, ...],
    ):
        if getattr(sys.modules["__main__"], "__file__", None) == "<stdin>":
            raise ValueError(
                "Workers import the program's file, and this program comes from standard input: "
                "save it to a file, or use `num_workers=0`."
            )
        try:
            pickled = pickle.dumps(loader)
        except Exception as error:
            raise ValueError(
                f"Source, preprocess or tokenizer cannot be sent to workers ({error}): define "
                "them at the top of a module, or use `num_workers=0`."
            ) from error
        # A fresh interpreter: a fork of a process in which JAX has threads may hang.
        context = multiprocessing.get_context("spawn")
        slots = Slots(context, num_slots, pixels, tokens)
        self.arrays = slots.arrays()
        self._pool = ProcessPoolExecutor(
            num_workers, context, initializer=_start, initargs=(pickled, slots)
        )

    def fill(self, slot: int, rows: slice, epoch: int, indices: np.ndarray) -> Future:
        with _explained():
            return self._pool.submit(_fill, slot, rows, epoch, indices)

    def result(self, future: Future) -> Any:
        with _explained():
            return future.result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A worker process ended. If the program is a script, what it does must stand below "
            '`if __name__ == "__main__":`, since workers import it. Otherwise something '
            "stopped the worker: look for 'out of memory' in the system's log."
        ) from error


# Seconds that a worker goes on after it was told to end, by the pool, too, when another one died.
_GRACE = 10

# What a worker process works with: the pickled loader and the slots, then loader and arrays.
_pickled: bytes
_slots: Slots
_state: tuple[Loader, list[np.ndarray]] | None = None


def _start(pickled: bytes, slots: Slots) -> None:
    global _pickled, _slots
    _pickled, _slots = pickled, slots
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the main process's to answer
    signal.signal(signal.SIGTERM, _end_soon)
    jax.config.update("jax_platforms", "cpu")  # should something ask for a device after all
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _keep_freed_memory()


def _end_soon(*_: Any) -> None:
    """A machine that is taken away tells all processes: the main one still saves its state."""
    timer = threading.Timer(_GRACE, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _keep_freed_memory() -> None:
    """Lets each image lie in the memory of the one before.

    Otherwise its pages go back to the system and are asked for anew, a quarter of all time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mmap_threshold, trim_threshold = -3, -1  # as malloc.h numbers them
    mallopt(mmap_threshold, 32 << 20)  # what is smaller comes from the heap; Pillow's have 16 MB
    mallopt(trim_threshold, 128 << 20)  # what the heap keeps: 12 megapixels and their crop


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _fill(slot: int, rows: slice, epoch: int, indices: np.ndarray) -> Any:
    global _state
    try:
        if _state is None:  # here and not in `_start`, whose errors do not reach the user
            _state = pickle.loads(_pickled), _slots.arrays()
        loader, (pixels, tokens) = _state
        return loader.fill(epoch, indices, pixels[slot, rows], tokens[slot, rows])
    except Exception as error:
        if _travels(error):
            raise
        words = "".join(traceback.format_exception_only(error)).strip()
        raise RuntimeError(f"A worker failed. {words}") from error


def _travels(error: Exception) -> bool:
    """Whether an error, of whatever class, can be sent to another process."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False
