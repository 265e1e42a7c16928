"""What tests anywhere below may ask for."""

import atexit
import os
import resource
import shutil
import signal
import socket
import tempfile
import threading
from pathlib import Path


# Read when JAX first looks for devices: eight of them, for what runs on a mesh. Most of the tests'
# time is LLVM's: without its optimisations the same programs of XLA compile in half of it.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    ]
).lstrip()

# Workers, and the processes that tests start, share what is compiled, for this run only.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="eqx_clip-compiled-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import huggingface_hub.constants
import huggingface_hub.hf_api
import jax
import pytest
from hub import Hub


# Below nohup or in the background of a script the tests, and what they start, would ignore these.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Forgets what is compiled where it takes too much memory: a worker sees thousands of it."""
    yield
    if resident_memory() > 3e9:
        jax.clear_caches()


def resident_memory():
    """Bytes of memory that this process takes, or 0 where the system does not say it."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0


@pytest.fixture
def x64():
    """JAX in 64-bit mode, which tells a wrong formula from rounding."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def use_hub(monkeypatch, tmp_path):
    """Sends huggingface-hub to an address, with an empty cache. It reads its settings at import."""

    def use(endpoint):
        constants = huggingface_hub.constants
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    return use


@pytest.fixture
def hub(use_hub):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub(server.address)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(use_hub):
    """An address where nobody answers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    use_hub(f"http://127.0.0.1:{port}")
