"""What was given, in the few words that an error's message has for it."""

import builtins
import reprlib
from numbers import Integral
from typing import Any

import equinox as eqx
import numpy as np
from jax import Array


class _Repr(reprlib.Repr):
    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, Array | np.ndarray):
            return f"{x.dtype} array of shape {x.shape}"
        if isinstance(x, eqx.Module):
            return f"{type(x).__name__}(...)"
        if isinstance(x, Integral) and abs(int(x)) >= 1 << 64:  # Python writes no 4301 digits
            return f"an integer of {int(x).bit_length()} bits"
        if isinstance(x, str | bytes | bytearray):
            return builtins.repr(x[: self.maxstring]) + ("..." if len(x) > self.maxstring else "")
        return super().repr1(x, level)


_shortened = _Repr()
_shortened.maxstring, _shortened.maxother = 200, 200


def short_repr(value: Any) -> str:
    """`repr(value)` in 500 characters at most: arrays by their shapes, modules by their names."""
    text = _shortened.repr(value)
    return text if len(text) <= 500 else f"{text[:500]}..."
