"""What the reader of torch's files makes of damaged and hostile ones.

    python benchmarks/fuzz_torch_files.py --count 100000 --seed 0

Each file is a small one of torch's, a state dict, a training checkpoint or a TorchScript archive,
of which some bytes were changed in the pickle, in the directory or anywhere. It may be read, every
tensor of it, or refused with a `ValueError` or an `OSError`. Batches run in processes of their own,
so that a crash is counted as one. Counted, too, are files at which anything was imported, compiled
or started by Python's own account, and those that take ten seconds of CPU. At the end, how many of
each there were, the slowest file in seconds of CPU, and the largest memory that any took above what
the process held before (pages of the mapped file included).
"""

import argparse
import collections
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import resident


BATCH = 10_000
SECONDS = 10
EVENTS = (
    "import",
    "compile",
    "exec",
    "os.system",
    "subprocess.Popen",
    "os.mkdir",
    "socket.connect",
)


class HangError(BaseException):
    """No exception that the reader might take for its own."""


def main(count: int, seed: int) -> None:
    results, slowest, largest = collections.Counter(), 0.0, 0
    done = 0
    while done < count:
        size = min(BATCH, count - done)
        command = [sys.executable, __file__, "--worker", "--count", str(size)]
        run = subprocess.run([*command, "--seed", str(seed + done)], capture_output=True, text=True)
        done += size
        if run.returncode:
            results["crashes"] += 1
            print(f"crash {run.returncode}, seed {seed + done - size}:\n{run.stderr[-2000:]}")
            continue
        batch = json.loads(run.stdout.splitlines()[-1])
        results.update(batch["results"])
        slowest, largest = max(slowest, batch["slowest"]), max(largest, batch["largest"])
        print(
            f"{done:,}: {dict(results)}; slowest {slowest:.3f} s, largest "
            f"{largest / 2**20:.2f} MiB",
            flush=True,
        )


def work(count: int, seed: int) -> None:
    """One batch. The folder's tests make the files, and need torch for it."""
    sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in ("", "checkpoints")]
    from torch_files import mutants, small_files

    from eqx_clip.checkpoints.files.torch_zip import TorchFile

    def read(path: Path) -> str:
        try:
            with TorchFile(path) as tensors:
                for name in tensors:
                    tensors[name].copy()
            return "read"
        except (ValueError, OSError) as error:
            return "refused" if len(str(error)) < 2000 else "refused in too many words"
        except HangError:
            return "hangs"
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    active, events = False, []

    def hook(event: str, arguments: object) -> None:
        if active and event in EVENTS:
            events.append(event)

    def stop(*_: object) -> None:
        raise HangError

    signal.signal(signal.SIGVTALRM, stop)
    results, slowest, largest = collections.Counter(), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.pt"
        files = small_files(Path(folder))
        for content in files:  # what Python imports by itself at the first file, it has now
            path.write_bytes(content)
            assert read(path) == "read"
            path.write_bytes(content[:-30])
            assert read(path) == "refused"
        sys.addaudithook(hook)
        for i, content in enumerate(mutants(files, seed=seed, count=count)):
            path.write_bytes(content)
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew
            before, start = resident("VmHWM:"), time.process_time()
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            active = True
            result = read(path)
            active = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            slowest = max(slowest, time.process_time() - start)
            largest = max(largest, resident("VmHWM:") - before)
            if events:
                results["imports or calls"] += 1
                print(f"seed {seed}, file {i}: {events}", file=sys.stderr)
                events.clear()
            results[result] += 1
    print(json.dumps({"results": results, "slowest": slowest, "largest": largest}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help="one batch, in this process")
    arguments = parser.parse_args()
    (work if arguments.worker else main)(arguments.count, arguments.seed)
