#!/usr/bin/env bash
# JAX 0.10.2: `jax.device_put(array, may_alias=False)`, which by its docstring copies, gives on a CPU
# an array that shares the memory of a NumPy array which begins at a multiple of 64 bytes: what is
# then written to the one is seen in the other. An array of other alignment is copied.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/finding.py" <<'PYTHON'
import jax
import numpy as np


def seen(offset):
    """What a JAX array of ones holds once the NumPy array that it was made of holds twos."""
    memory = np.zeros(4096 + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    array = memory[start : start + 4096].view(np.float32)
    array[:] = 1
    on_device = jax.block_until_ready(jax.device_put(array, may_alias=False))
    array[:] = 2
    return float(on_device[0])


print(f"aligned to 64 bytes: {seen(0)}; 16 bytes beside: {seen(16)}")
assert seen(0) == 2, "may_alias=False now copies"
assert seen(16) == 1
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/finding.py"
