"""Many processes, and processes that hang or are told to stop."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from eqx_clip.train import Watchdog, initialize


# What every process runs first: joining the others, one mesh of all devices, a sharded array.
PREAMBLE = """
import os, signal, sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from eqx_clip.train import Checkpointer, Preemption, SaveSchedule, Watchdog, initialize

port, count, me, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for _ in range(2):  # the second call does nothing
    initialize(f"127.0.0.1:{port}", count, me, heartbeat_seconds=6)
mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))
rows, copies = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
host = np.arange(16, dtype=np.float32).reshape(8, 2) / 7

def sharded(array, sharding):
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

@jax.jit
def step(state):
    weights = state["weights"] + 1e-3 * state["weights"].sum()
    return {**state, "weights": weights, "count": state["count"] + 1}

def ready():
    print("ready", flush=True)
"""
STATE = """
state = {
    "weights": sharded(host, rows),
    "count": sharded(np.zeros((), np.int32), copies),
    "key": jax.random.wrap_key_data(sharded(np.array([3, 4], np.uint32), copies)),
}
"""


def start(script, count, folder, devices=2):
    """The processes of a script, and the lines of each as they come."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return [
        subprocess.Popen(
            [sys.executable, "-u", "-c", PREAMBLE + script, str(port), str(count), str(me), folder],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for me in range(count)
    ]


def until_ready(processes):
    before = []
    for process in processes:
        lines = []
        while not lines or lines[-1] != "ready\n":
            line = process.stdout.readline()
            assert line, "".join(lines)
            lines.append(line)
        before.append("".join(lines))
    return before


def ended(processes, seconds=50):
    """The outputs, when all have ended; whoever has not is killed and fails the test."""
    outputs, stop = [], time.monotonic() + seconds
    try:
        for process in processes:
            outputs.append(process.communicate(timeout=max(stop - time.monotonic(), 0.1))[0])
    finally:
        for process in processes:
            process.kill()  # SIGTERM is JAX's preemption notice
            process.wait()
            process.stdout.close()
    return outputs


def run(script, count, folder, devices=2):
    processes = start(script, count, folder, devices)
    outputs = ended(processes)
    assert [process.returncode for process in processes] == [0] * count, "\n".join(outputs)
    return outputs


SAVE = """
with Checkpointer(folder, config={"seed": 0}) as checkpointer:
    for number in (1, 2):
        state = step(state)
        checkpointer.save(number, state)
"""
RESTORE = """
checkpointer = Checkpointer(folder, config={"seed": 0})

def shape_of(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

restored = checkpointer.restore(jax.tree.map(shape_of, state))
whole = jax.jit(lambda x: x, out_shardings=copies)(restored["weights"])
print("weights", np.asarray(whole).tobytes().hex())
print("others", int(restored["count"]), np.asarray(jax.random.key_data(restored["key"])).tolist())
"""


def test_two_processes_save_and_one_two_or_other_numbers_of_devices_restore(tmp_path):
    folder = str(tmp_path / "run")
    run(STATE + SAVE, 2, folder)
    outputs = [
        *run(STATE + RESTORE, 2, folder),
        *run(STATE + RESTORE, 1, folder, devices=1),
        *run(STATE + RESTORE, 1, folder, devices=8),
    ]
    assert len({re.search(r"weights \w+", output)[0] for output in outputs}) == 1
    assert all("others 2 [3, 4]" in output for output in outputs)


APART = """
try:
    Checkpointer(folder + str(me)).save(1, state)
except ValueError as error:
    print(error)
"""


def test_folders_that_are_not_shared_are_refused(tmp_path):
    outputs = run(STATE + APART, 2, str(tmp_path / "run"))
    assert all("Processes [1] do not see what process 0 writes" in output for output in outputs)


SAME = """
from eqx_clip.train import check_same

check_same(seed=1, options={"sizes": (1, 2), "name": None, "rate": 0.1})
try:
    check_same(seed=1, options={"name": "a longer name" * me, "rate": 0.1})
except ValueError as error:
    print(error)
"""


def test_a_fact_that_differs_is_named_on_every_process_with_what_each_has(tmp_path):
    outputs = run(SAME, 2, str(tmp_path))
    message = '`options.name` must be the same in all processes; they have, in order, "", "a longer'
    assert all(message in output and "rate" not in output for output in outputs)


MINUTES = """
clock = time.monotonic
time.monotonic = lambda: clock() * (1 + 9 * me)  # the clock of process 1 is ten times as fast
schedule, due = SaveSchedule(minutes=0.5 / 60), []
for number in range(1, 41):
    time.sleep(0.03)
    state = step(state)
    due += [number] if schedule.due(number) else []
print("due", due)
"""


def test_processes_agree_on_saves_by_minutes(tmp_path):
    outputs = run(STATE + MINUTES, 2, str(tmp_path))
    due = [re.search(r"due \[(.*)\]", output)[1] for output in outputs]
    assert due[0] == due[1] != ""


TRAIN = """
with Checkpointer(folder) as checkpointer, Preemption() as preemption:
    for number in range(1, 100_000):
        state = step(state)
        jax.block_until_ready(state)
        if number == 2:
            ready()
        if preemption.should_stop(number):
            checkpointer.save(number, state)
            checkpointer.wait()
            print("stopped", number, int(state["count"]))
            break
        time.sleep(0.01)
"""


@pytest.mark.parametrize("count", [1, 2])
def test_a_sigterm_of_one_stops_all_after_one_step_with_a_checkpoint(tmp_path, count):
    processes = start(STATE + TRAIN, count, str(tmp_path))
    try:
        until_ready(processes)
        processes[-1].send_signal(signal.SIGTERM)
    finally:
        outputs = ended(processes)
    assert [process.returncode for process in processes] == [0] * count, "\n".join(outputs)
    stopped = {re.search(r"stopped (\d+) \1\n", output)[1] for output in outputs}
    assert len(stopped) == 1
    assert [path.name for path in tmp_path.iterdir()] == list(stopped)


ALONE = """
initialize(num_processes=1)
with Preemption() as preemption:
    assert not preemption.should_stop(1)
    signal.raise_signal(signal.SIGTERM)
    assert preemption.should_stop(2) and preemption.should_stop(3)
    ready()
    signal.raise_signal(signal.SIGTERM)
print("went on")
"""


def test_a_second_sigterm_ends_a_single_process(tmp_path):
    (process,) = start(ALONE, 1, str(tmp_path))
    (output,) = ended([process])
    assert "ready" in output and "went on" not in output
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    "victim, told",
    [(1, r"unhealthy \(stopped sending heartbeats\):\n1\n"), (0, "leader task was preempted/died")],
)
def test_a_killed_peer_ends_the_run_and_is_named(tmp_path, victim, told):
    processes = start(STATE + TRAIN, 2, str(tmp_path))
    try:
        until_ready(processes)
        processes[victim].kill()
        begin = time.monotonic()
    finally:
        outputs = ended(processes, 40)
    assert time.monotonic() - begin < 40
    assert processes[1 - victim].returncode not in (0, None)
    assert re.search(told, outputs[1 - victim]), outputs[1 - victim]


RAISE = """
with Checkpointer(folder) as checkpointer:
    for number in range(1, 100_000):
        state = step(state)
        jax.block_until_ready(state)
        if number == 2:
            ready()
        if number == 10:
            checkpointer.save(number, state)
            if me == 1:
                raise ValueError("bad record 17")
"""


def test_an_exception_in_one_ends_all_without_waiting_for_each_other(tmp_path):
    processes = start(STATE + RAISE, 2, str(tmp_path))
    outputs = ended(processes, 40)
    assert "ValueError: bad record 17" in outputs[1]
    assert processes[1].returncode == 1
    assert processes[0].returncode not in (0, None)
    assert re.search(r"stopped sending heartbeats\):\n1\n", outputs[0]), outputs[0]


HANG = """
from eqx_clip.train import Watchdog
import sys, time

def stuck():
    time.sleep(60)

with Watchdog(limit=0.3, first_limit=float(sys.argv[1])) as watchdog:
    for number in range(3):
        watchdog.beat(f"step {number}")
        if number == int(sys.argv[2]):
            stuck()
        time.sleep(0.05)
"""


@pytest.mark.parametrize("first_limit, hangs_at", [(30, 1), (0.5, 0)])
def test_a_step_that_hangs_ends_the_process_with_its_name_and_stacks(first_limit, hangs_at):
    result = subprocess.run(
        [sys.executable, "-c", HANG, str(first_limit), str(hangs_at)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 75
    limit = "0.3" if hangs_at else "0.5"
    told = rf"step {hangs_at} has not ended after 0\.\d s; its limit is {limit} s"
    assert re.search(told, result.stderr), result.stderr
    assert "in stuck" in result.stderr


def test_a_watchdog_lets_steps_pass_and_leaves_no_thread():
    before = threading.active_count()
    with Watchdog(limit=0.2, first_limit=5) as watchdog:
        watchdog.beat("compiling")
        time.sleep(0.4)
        for step in range(5):
            watchdog.beat(f"step {step}")
            time.sleep(0.1)
        watchdog.beat("evaluation", limit=5)
        time.sleep(0.4)
    assert threading.active_count() == before
    with Watchdog(limit=1, first_limit=1):
        pass  # no step at all
    with pytest.raises(ValueError, match="`limit=0` must be a number of seconds"):
        Watchdog(limit=0, first_limit=1)


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"coordinator_address": "a:1"}, "without num_processes, process_id"),
        ({"num_processes": 2, "process_id": 0}, "without coordinator_address"),
        (
            {"coordinator_address": "a", "num_processes": 2, "process_id": 0},
            "must be the host and a free port",
        ),
        (
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 2},
            "less than `num_processes=2`",
        ),
    ],
)
def test_half_given_processes_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        initialize(**arguments)


def test_a_single_process_needs_no_arguments(tmp_path):
    code = (
        "import jax; from eqx_clip.train import initialize; initialize(); "
        "assert not jax.distributed.is_initialized(); print(jax.process_count())"
    )
    names = ("SLURM", "OMPI", "KUBERNETES", "JAX_COORDINATOR")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.stdout == "1\n", result.stderr


SLURM = """
import jax
from eqx_clip.train import initialize
initialize()
print(jax.process_index(), jax.process_count())
"""


def test_slurm_says_who_the_processes_are():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SLURM],
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_COORDINATOR_PORT": str(port),
                "SLURM_JOB_ID": "1",
                "SLURM_STEP_NODELIST": "127.0.0.1",
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": str(me),
                "SLURM_LOCALID": str(me),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for me in range(2)
    ]
    outputs = ended(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert ["0 2" in outputs[0], "1 2" in outputs[1]] == [True, True], outputs


def slurm_alone(script, **environment):
    """One process of two that Slurm speaks of."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_PORT": str(port), **slurm},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_process_that_waits_for_others_says_so_and_ends_in_good_order():
    result = slurm_alone("from eqx_clip.train import initialize; initialize(timeout_seconds=6)")
    assert result.returncode == 1
    first, last = [line for line in result.stderr.splitlines() if line.startswith("eqx_clip: ")]
    waits = "waiting for 2 processes, as Slurm says (SLURM_NTASKS=2); here is 1, process 0, on "
    assert first.startswith(f"eqx_clip: {waits}")
    for remedy in ("srun", "--num-processes 1"):
        assert remedy in first and remedy in last
    assert last.startswith("eqx_clip: waited 6 s in vain for 2 processes")
    assert "Check failure stack trace" not in result.stderr and "Traceback" not in result.stderr


def test_one_process_of_a_scheduler_can_be_started_alone():
    script = "from eqx_clip.train import initialize; initialize(num_processes=1)"
    result = slurm_alone(script)
    assert result.returncode == 0 and not result.stderr
