#!/usr/bin/env bash
# JAX 0.10.2 on a CPU: the same convolution in the body of `lax.scan` takes many times as long with
# PyTorch's order of the weight's axes (OIHW) as with HWIO, and many times as long as outside of the
# loop, where the order makes no such difference. The loop's body seems to be out of reach of what
# makes the orders equal elsewhere.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6
cat > "$folder/finding.py" <<'PYTHON'
import time

import jax
import jax.numpy as jnp
import numpy as np


DEPTH = 3
rng = np.random.default_rng(0)
x = jnp.asarray(rng.standard_normal((8, 28, 28, 128), np.float32))
oihw = jnp.asarray(0.03 * rng.standard_normal((DEPTH, 128, 128, 3, 3), np.float32))
weights = {"OIHW": oihw, "HWIO": oihw.transpose(0, 3, 4, 2, 1)}


def convolve(x, weight, order):
    orders = ("NHWC", order, "NHWC")
    return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=orders)


def looped(order):
    def run(x, weights):
        return jax.lax.scan(lambda x, w: (convolve(x, w, order), None), x, weights)[0]

    return jax.jit(run)


def unrolled(order):
    def run(x, weights):
        for i in range(DEPTH):
            x = convolve(x, weights[i], order)
        return x

    return jax.jit(run)


def milliseconds(function, order):
    jax.block_until_ready(function(x, weights[order]))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(x, weights[order]))
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


times = {
    (where, order): milliseconds(make(order), order)
    for where, make in (("in a loop", looped), ("unrolled", unrolled))
    for order in ("OIHW", "HWIO")
}
results = [looped(order)(x, weights[order]) for order in weights]
np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-4)
print(f"jax {jax.__version__}, {jax.default_backend()}")
for (where, order), time_ in times.items():
    print(f"{where}, {order}: {time_:.0f} ms")
in_loop = times["in a loop", "OIHW"] / times["in a loop", "HWIO"]
outside = times["unrolled", "OIHW"] / times["unrolled", "HWIO"]
print(f"OIHW to HWIO: {in_loop:.1f} in a loop, {outside:.1f} unrolled")
assert in_loop > 3 > outside, "The behaviour has changed."
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/finding.py"
