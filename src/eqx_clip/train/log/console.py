"""What a person sees of training: a bar on a terminal, lines in a file."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ..._types import Count
from .loggers import Metrics


class Console:
    """A progress bar with the loss, images/s, the share of data wait, and the remaining time.

    On the first process only. Where the stream is no terminal, such as the log of a batch system,
    each `log` prints a line in place of the bar. Metrics that are not training's own, `"val/loss"`
    and the like, are printed above the bar when they are logged without a `"loss"`. Steps count
    from one: step 7 is the seventh. The remaining time is by the mean of the steps taken so far.
    """

    def __init__(
        self,
        total_steps: Count,
        *,
        start_step: Count = 0,
        stream: Any = None,
        process_index: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """**Arguments:**

        - `total_steps`: of the whole run, `start_step`, where this one goes on, included.
        - `stream`: a text file to print to, by default the error stream.
        - `process_index`: by default JAX's.
        - `clock`: tells the time in seconds, for the lines.
        """
        self._stream = sys.stderr if stream is None else stream
        self._process = jax.process_index() if process_index is None else process_index
        self._total, self._clock = total_steps, clock
        self._begun: tuple[int, float] | None = None  # the first step that was seen, and when
        self._bar = None
        if self._process == 0 and self._stream.isatty():
            self._bar = _bar(total_steps, start_step, self._stream, self._remaining)

    def advance(self, step: int) -> None:
        """Moves the bar: the step of that number is taken."""
        self._begun = self._begun or (step, self._clock())
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    @contextlib.contextmanager
    def compiling(self, program: str, compiles: bool = True) -> Iterator[None]:
        """Around a step that is compiled for `program`, such as "captions of 24 tokens": says so.

        Neither the step nor its time counts in the remaining time. Nothing if not `compiles`.
        """
        if not compiles:
            yield
            return
        self.write(f"compiling for {program}")
        start = self._clock()
        yield
        if self._begun is not None:
            first, begun = self._begun
            self._begun = first + 1, begun + self._clock() - start

    def log(self, step: int, metrics: Metrics) -> None:
        if "loss" not in metrics:
            self.write(f"step {step}: {', '.join(_others(metrics))}")
        elif self._bar is not None:
            self._bar.set_postfix_str(", ".join(_progress(metrics)), refresh=False)
            self.advance(step)
        else:
            done, remaining = f"step {step:,}/{self._total:,}", self._remaining(step)
            left = [] if remaining is None else [f"{remaining} left"]
            self.write(", ".join([done, *_progress(metrics), *left]))
            self.advance(step)

    def write(self, text: str) -> None:
        """A line, above the bar, by the first process."""
        if self._process:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _remaining(self, step: int) -> str | None:
        """By the steps after the first that was seen; None before there is one."""
        from tqdm import tqdm

        if self._begun is None or step <= self._begun[0]:
            return None
        first, begun = self._begun
        each = (self._clock() - begun) / (step - first)
        return tqdm.format_interval(each * (self._total - step))


def _bar(
    total_steps: int, start_step: int, stream: Any, remaining: Callable[[int], str | None]
) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own

        @property
        def format_dict(self) -> dict[str, Any]:
            return {**super().format_dict, "left": remaining(self.n) or "?"}

    return Bar(
        total=total_steps,
        initial=start_step,
        file=stream,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}{postfix}]",
    )


def _progress(metrics: Metrics) -> Iterator[str]:
    yield f"loss {float(metrics['loss']):.4g}"
    if "images_per_second" in metrics:
        yield f"{float(metrics['images_per_second']):,.0f} images/s"
    if "data_wait" in metrics:
        yield f"data wait {float(metrics['data_wait']):.0%}"


def _others(metrics: Metrics) -> Iterator[str]:
    for name, value in metrics.items():
        yield f"{name} {float(value):.4g}"
