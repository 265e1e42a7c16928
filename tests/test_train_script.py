"""examples/train.py, run as users run it: stopped, killed, resumed, and on several processes."""

import contextlib
import csv
import dataclasses
import errno
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from helpers import TINY_SIGLIP
from PIL import Image
from sklearn.datasets import load_digits

import eqx_clip
from eqx_clip.data import open_classes
from eqx_clip.train import read_lines, zero_shot_accuracy


SCRIPT = Path(__file__).parents[1] / "examples" / "train.py"
MODEL = {  # in OpenCLIP's format
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 12, "width": 16, "layers": 1, "heads": 1, "vocab_size": 49408},
}
STEPS, EPOCH, BATCH = 40, 20, 16
# With AMX, what a run that goes on finds in validation was seen to differ by one unit in the last
# place of float32 from what a run in peace finds, of the same weights.
CPU = Path("/proc/cpuinfo")
HAS_AMX = CPU.exists() and "amx_tile" in CPU.read_text()
DATA = ("--train-path", "train.csv", "--valid-path", "valid.csv", "--model-name", "model.json")
RUN = (*DATA, *"--global-batch-size 16 --n-epochs 2 --n-warmup-steps 2 --log-freq 1".split())


def write_digits(folder: Path, name: str, first: int, count: int) -> None:
    """Real digits with captions, and a CSV file of them."""
    images, labels = load_digits(return_X_y=True)
    (folder / "digits").mkdir(exist_ok=True)
    with open(folder / name, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image_path", "caption", "digit"])
        for i in range(first, first + count):
            path = f"digits/{i:04}.png"
            pixels = (images[i] * 255 / 16).astype(np.uint8).reshape(8, 8)
            Image.fromarray(pixels).save(folder / path)
            rows.writerow([path, f"the digit {labels[i]}", labels[i]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data and a model, where all runs begin."""
    folder = tmp_path_factory.mktemp("runs")
    write_digits(folder, "train.csv", 0, EPOCH * BATCH + 3)
    write_digits(folder, "valid.csv", EPOCH * BATCH + 3, 37)
    write_digits(folder, "fewer.csv", 0, EPOCH * BATCH + 2)
    (folder / "model.json").write_text(json.dumps(MODEL))
    (folder / "quick.json").write_text(json.dumps({**MODEL, "quick_gelu": True}))
    # A tokenizer that is not CLIP's is not there yet.
    text = {**TINY_SIGLIP["text_cfg"], **MODEL["text_cfg"], "width": 32, "heads": 2}
    siglip = {**TINY_SIGLIP, "text_cfg": {k: v for k, v in text.items() if "tokenizer" not in k}}
    (folder / "siglip.json").write_text(json.dumps(siglip))
    darker = {"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (folder / "darker.json").write_text(json.dumps(darker))
    for name in ("cat", "dog"):
        (folder / "broken" / name).mkdir(parents=True)
        (folder / "broken" / name / "0.jpg").write_bytes(b"none")
    return folder


# --- Processes -------------------------------------------------------------------------------


@contextlib.contextmanager
def started(folder: Path, *arguments: Any, devices: int = 1) -> Iterator[subprocess.Popen[str]]:
    """The script in a process of its own, in which warnings are errors."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)],
        cwd=folder,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What the process still prints; it must end with `code`, and without a stack."""
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def stopped(process: subprocess.Popen[str]) -> str:
    """Of a process that SIGTERM stopped."""
    return finish(process, 75)


def run(folder: Path, *arguments: Any, devices: int = 1, code: int = 0) -> str:
    with started(folder, *arguments, devices=devices) as process:
        return finish(process, code)


def wait_for(process: subprocess.Popen[str], step: int) -> str:
    """Returns as soon as the process has logged so many steps."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(f"step {step}/"):
            return "".join(lines)
    raise AssertionError(f"no step {step}: {''.join(lines)}")


def losses(folder: Path) -> list[float]:
    """The loss of each step, which the log must have once and in order."""
    entries = [entry for entry in read_lines(folder / "log.jsonl") if "loss" in entry]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
    return [entry["loss"] for entry in entries]


def validation(folder: Path) -> list[dict[str, float]]:
    return [entry for entry in read_lines(folder / "log.jsonl") if "val/loss" in entry]


def weights(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "open_clip" / "open_clip_model.safetensors")


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def assert_same_run(one: Path, other: Path) -> None:
    """To the bit: every loss and the exported weights, and, where products of matrices do not
    depend on what else a process has computed, what validation found."""
    assert len(losses(one)) == STEPS and losses(one) == losses(other)
    if HAS_AMX:
        pairs = zip(validation(one), validation(other), strict=True)
        for values, others in pairs:
            assert values == pytest.approx(others, rel=1e-6)
    else:
        assert validation(one) == validation(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


# --- The README of open_clip_jax -------------------------------------------------------------


def test_the_command_of_open_clip_jax_runs_as_printed(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in {"train": 24, "valid": 9}.items():
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["caption", "image_path"])
            for i in range(count):
                pixels = rng.integers(256, size=(240, 260, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"{name}{i}.jpg")
                rows.writerow([f"picture {i}, of noise", f"{name}{i}.jpg"])
    output = run(
        tmp_path,
        *("--train-path", "train.csv"),
        *("--valid-path", "valid.csv"),
        *("--image-key", "image_path"),
        *("--text-key", "caption"),
        *("--global-batch-size", "8"),
        *("--model-name", "vit-nano-patch32"),
        *("--learning-rate", "1e-3"),
        *("--n-epochs", "2"),
    )
    assert "global-batch-size: 8\n" in output and "learning-rate: 0.001\n" in output
    assert "A warmup of 10000 steps is longer than the run of 6 steps" in output
    assert output.count("compiling for captions of") == 1
    assert f"chance level of the loss, ln(batch): {math.log(8):.4f}" in output
    (folder,) = (tmp_path / "checkpoints").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_vit-nano-patch32", folder.name)
    assert checkpoints(folder) == [3, 6]
    first, *_, last = [entry for entry in read_lines(folder / "log.jsonl") if "loss" in entry]
    assert (first["step"], last["step"]) == (1, 6)
    assert [entry["step"] for entry in validation(folder)] == [3, 6]
    model = eqx_clip.load(folder / "open_clip")
    assert model.preprocess.image_size == 224


# --- Stopped and resumed ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(folder) -> Path:
    """A run that nothing interrupts."""
    run(folder, *RUN, "--checkpoint-dir", "whole")
    return folder / "whole"


def test_a_run_learns_and_keeps_a_checkpoint_an_epoch(whole):
    assert len(losses(whole)) == STEPS
    assert np.mean(losses(whole)[-EPOCH:]) < math.log(BATCH) < losses(whole)[0] + 1
    assert checkpoints(whole) == [EPOCH, STEPS]
    assert [entry["step"] for entry in validation(whole)] == [EPOCH, STEPS]
    assert validation(whole)[0]["val/num_samples"] == 37
    eqx_clip.load(whole / "open_clip")


def test_a_run_stopped_by_sigterm_resumes_to_the_bit(folder, whole):
    options = (*RUN, "--checkpoint-dir", "stopped", "--checkpoint-freq", 0)
    with started(folder, *options) as process:
        wait_for(process, 3)
        process.send_signal(signal.SIGTERM)
        *_, last = stopped(process).splitlines()
    (step,) = checkpoints(folder / "stopped")
    assert 3 <= step < STEPS and step % EPOCH
    resume = f"--resume-from-checkpoint {folder / 'stopped'}"
    assert last.startswith("Stopped by SIGTERM.") and last.endswith(resume)
    output = run(folder, *options, *resume.split())
    assert f"resumed at step {step}" in output and f"step {step + 1}/{STEPS}, " in output
    assert_same_run(folder / "stopped", whole)


def test_a_run_killed_twice_resumes_to_the_bit(folder, whole):
    """By kill -9, at moments that differ from one test run to the next."""
    options = (*RUN, "--checkpoint-dir", "killed", "--checkpoint-steps", 3)
    resume = ("--resume-from-checkpoint", "latest")
    # When step 7 is logged, the checkpoint of step 3 is whole: that of step 6 waited for it.
    for step, more in ((random.randint(7, 15), ()), (random.randint(21, 32), resume)):
        delay = random.uniform(0, 0.05)
        print(f"kill -9 {delay:.3f} s after step {step}")
        with started(folder, *options, *more) as process:
            wait_for(process, step)
            time.sleep(delay)
            process.kill()
            assert process.wait() == -signal.SIGKILL
    assert "resumed at step" in run(folder, *options, *resume)
    assert_same_run(folder / "killed", whole)


# --- Many processes --------------------------------------------------------------------------


@contextlib.contextmanager
def cluster(
    folder: Path, count: int, *arguments: Any, devices: int = 1, **own: tuple[Any, ...]
) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes of one run; `own`: a process's own arguments, by its name, "p0" or "p1"."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        processes = []
        for i in range(count):
            place = ("--coordinator-address", address, "--num-processes", count, "--process-id", i)
            command = (*arguments, *place, *own.get(f"p{i}", ()))
            processes.append(stack.enter_context(started(folder, *command, devices=devices)))
        yield processes


def test_processes_with_different_options_are_refused(folder):
    options = (*DATA, "--n-epochs", 1, "--checkpoint-dir", "different")
    sizes = {f"p{i}": ("--global-batch-size", size) for i, size in enumerate((16, 32))}
    with cluster(folder, 2, *options, **sizes) as processes:
        for process in processes:
            output = process.communicate(timeout=300)[0]
            assert process.returncode, output
            assert "`global_batch_size` must be the same in all processes" in output, output
    assert not (folder / "different").exists()


def test_where_a_peer_was_killed_the_way_to_go_on_is_told(folder):
    options = (*RUN, "--checkpoint-dir", "orphaned")
    with cluster(folder, 2, *options) as (first, second):
        wait_for(first, 3)
        second.kill()
        output = first.communicate(timeout=300)[0]
    assert first.returncode in (1, -signal.SIGABRT), output
    assert "Traceback" not in output, output
    assert "Another process of this run has died" in output, output
    assert f"--resume-from-checkpoint {folder / 'orphaned'}" in output, output


def test_one_process_then_two_then_four_go_on_as_one_would(folder, whole):
    options = (*RUN, "--checkpoint-dir", "elastic", "--checkpoint-freq", 0)
    resume = ("--resume-from-checkpoint", "latest")
    with started(folder, *options) as process:
        wait_for(process, 3)
        process.send_signal(signal.SIGTERM)
        stopped(process)
    (first_stop,) = checkpoints(folder / "elastic")

    spread = ("--mesh", 4, 2, "--accumulate", 2)
    with cluster(folder, 2, *options, *resume, *spread, devices=4) as (first, second):
        wait_for(first, first_stop + 5)
        second.send_signal(signal.SIGTERM)
        stopped(first)
        printed = stopped(second)
    assert not re.search(r"step \d+/", printed) and "chance level" not in printed
    *_, second_stop = checkpoints(folder / "elastic")
    assert 3 <= first_stop < first_stop + 5 <= second_stop < STEPS

    with cluster(folder, 4, *options, *resume) as processes:
        for process in processes:
            finish(process)
    np.testing.assert_allclose(losses(folder / "elastic"), losses(whole), rtol=1e-6)


# --- Without training, and with every option ---------------------------------------------------


@pytest.fixture(scope="module")
def script():
    """The module, for what need not be a process of its own."""
    spec = spec_from_file_location("train_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def call(script, folder, monkeypatch):
    """`main` with some options, by their names without groups, in the folder of the data."""
    monkeypatch.chdir(folder)

    def call(**values: Any) -> None:
        values = {"num_processes": 1, "model_name": "model.json", "n_warmup_steps": 2, **values}
        groups = {}
        for group in dataclasses.fields(script.Options):
            names = {field.name for field in dataclasses.fields(group.default)}
            mine = {name: values.pop(name) for name in names & values.keys()}
            groups[group.name] = dataclasses.replace(group.default, **mine)
        assert not values
        script.main(script.Options(**groups))

    return call


TRAINING = {"train_path": "train.csv", "global_batch_size": BATCH, "n_epochs": 2}


def test_plan_trains_nothing(call, folder, capsys):
    call(**TRAINING, plan=True, checkpoint_dir="planned")
    printed = capsys.readouterr().out
    for word in ("parameters", "FLOPs", "memory a device", "mesh", "40 of 16 images"):
        assert word in printed
    model = eqx_clip.create(MODEL, key=jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert f"parameters: {count:,}\n" in printed
    assert not (folder / "planned").exists() and not (folder / "checkpoints").exists()


def test_validation_alone_finds_what_training_found(call, whole, capsys):
    call(valid_path="valid.csv", model_name=str(whole / "open_clip"), global_batch_size=BATCH)
    found = json.loads(capsys.readouterr().out)
    expected = {name: value for name, value in validation(whole)[-1].items() if name != "step"}
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_softmax_of_one_pair_is_refused(call):
    with pytest.raises(ValueError, match=r"--global-batch-size 1: .* always 0.*--siglip"):
        call(**{**TRAINING, "global_batch_size": 1})


def test_a_finished_run_of_a_constant_rate_takes_more_epochs(call, folder):
    constant = {**TRAINING, "learning_rate_scheduler": "const", "train_n_samples": 3 * BATCH}
    call(**constant, checkpoint_dir="longer", log_freq=1)
    call(**{**constant, "n_epochs": 4}, resume_from_checkpoint="longer", log_freq=1)
    call(**{**constant, "n_epochs": 4}, checkpoint_dir="at_once", log_freq=1)
    assert checkpoints(folder / "longer") == [3, 6, 9, 12]
    assert len(losses(folder / "longer")) == 12
    assert losses(folder / "longer") == losses(folder / "at_once")
    for name, array in weights(folder / "longer").items():
        np.testing.assert_array_equal(array, weights(folder / "at_once")[name])
    with pytest.raises(ValueError, match="now at step 12, was made for 6 steps"):
        call(**{**constant, "n_epochs": 3}, resume_from_checkpoint="longer")


def test_more_epochs_of_a_cosine_are_refused_with_the_way(call, whole):
    with pytest.raises(ValueError, match="made for 40 steps") as caught:
        call(**{**TRAINING, "n_epochs": 3}, resume_from_checkpoint=str(whole))
    assert f"--model-name {whole}/open_clip" in str(caught.value)
    assert checkpoints(whole) == [EPOCH, STEPS] and len(losses(whole)) == STEPS


@pytest.mark.parametrize("name", ["model.json", "siglip.json"])
def test_a_run_of_the_sigmoid_loss_has_no_level_of_chance_and_validates_by_its_own(
    name, call, folder, capsys, caplog
):
    few = {"train_n_samples": 2 * BATCH, "n_epochs": 1}
    options = {**TRAINING, **few, "siglip": True, "valid_path": "valid.csv", "model_name": name}
    trained = folder / f"sigmoid of {name}"
    call(**options, checkpoint_dir=trained.name, log_freq=1)
    assert "chance" not in caplog.text
    entries = read_lines(trained / "log.jsonl")
    assert not any("chance" in entry for entry in entries)
    (valid,) = validation(trained)
    capsys.readouterr()
    exported = {"model_name": str(trained / "open_clip"), "global_batch_size": BATCH}
    call(valid_path="valid.csv", **exported)
    found = json.loads(capsys.readouterr().out)["val/loss"]
    assert found == pytest.approx(valid["val/loss"], rel=1e-4)
    assert found > math.log(BATCH)  # at the start the sigmoid's is above that


# --- What a person is told ---------------------------------------------------------------------


def test_an_error_is_told_in_one_message_and_with_debug_in_a_stack(folder):
    wrong = ("--train-path", "trian.csv")
    output = run(folder, *wrong, code=1)
    (last,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "trian.csv" in last
    with started(folder, *wrong, "--debug") as process:
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "Traceback" in output


def told(script, capsys, error: BaseException, cause: BaseException | None = None) -> list[str]:
    error.__cause__ = cause
    script.print_error(type(error), error, None)
    return capsys.readouterr().err.splitlines()


def test_what_helps_is_told_with_an_error(script, capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    first, second = told(script, capsys, full)
    assert "No space left" in first and "make room" in second
    first, second = told(script, capsys, RuntimeError("The last checkpoint was not saved"), full)
    assert "not saved" in first and "make room" in second
    network = type("ConnectError", (Exception,), {"__module__": "httpx"})
    first, second, last = told(script, capsys, network("Name or service not known"))
    assert first == "error: ConnectError: Name or service not known"
    assert "network" in second and "--debug" in last
    assert told(script, capsys, ValueError("wrong")) == ["error: wrong"]


def test_an_error_in_training_says_how_to_go_on(call, script, folder, monkeypatch, capsys):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(eqx_clip.train, "export", full)
    options = {**TRAINING, "n_epochs": 1, "train_n_samples": BATCH}
    with pytest.raises(OSError) as caught:
        call(**options, checkpoint_dir="full")
    *_, last = told(script, capsys, caught.value)
    assert last.endswith(f"--resume-from-checkpoint {folder / 'full'}")


def test_without_the_packages_of_training_the_remedy_is_told(folder):
    code = f"import sys, runpy; sys.modules['tyro'] = None; runpy.run_path({str(SCRIPT)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "pip install 'eqx_clip[train]'" in result.stderr


def test_options_together(folder):
    """Steps of SigLIP in bfloat16, with all that can be asked of them."""
    output = run(
        folder,
        *DATA,
        *"--global-batch-size 16 --n-epochs 1 --train-n-samples 48 --log-freq 1".split(),
        *"--ema-decay 0.9 --lock-image 1 --layer-decay 0.8 --grad-clip-norm 1".split(),
        *"--patch-dropout 0.5 --siglip --dtype bfloat16 --remat full --workers 1".split(),
        *"--tensorboard --profile-steps 2 --n-warmup-steps 1 --checkpoint-dir options".split(),
    )
    assert "3 steps" in output
    entries = read_lines(folder / "options" / "log.jsonl")
    assert len(losses(folder / "options")) == 3
    assert all(map(math.isfinite, losses(folder / "options")))
    assert entries[0]["logit_scale"] == pytest.approx(10, rel=1e-3)
    assert list((folder / "options" / "tensorboard").glob("events.*"))
    assert list((folder / "options" / "profile").rglob("*.xplane.pb"))
    assert eqx_clip.load(folder / "options" / "open_clip").logit_bias is not None


def test_float16_and_zero_shot_accuracy(folder):
    for digit, name in enumerate(("zero", "one")):
        (folder / "classes" / name).mkdir(parents=True)
        for i in np.flatnonzero(load_digits().target == digit)[:3]:
            pixels = (load_digits().images[i] * 255 / 16).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "classes" / name / f"{i}.png")
    run(
        folder,
        *("--train-path", "train.csv", "--model-name", "model.json", "--train-n-samples", 160),
        *"--global-batch-size 16 --n-epochs 1 --log-freq 1 --n-warmup-steps 1".split(),
        *"--dtype float16 --zero-shot-path classes --checkpoint-dir half".split(),
    )
    assert all(map(math.isfinite, losses(folder / "half")))
    # The first steps are left out, until the scale of the loss fits.
    fresh = eqx_clip.create(MODEL, key=jax.random.key(0))  # of the script's seed
    half = eqx_clip.load(folder / "half" / "open_clip")
    assert jnp.abs(half.image.proj - fresh.image.proj).max() > 1e-5
    last = read_lines(folder / "half" / "log.jsonl")[-1]
    model, classes = half, open_classes(folder / "classes")
    classifier = eqx_clip.zero_shot_classifier(model, classes.class_names, ["a photo of a {}."])
    expected = zero_shot_accuracy(model, classes.images, classes.labels, classifier)
    found = {name: last[f"zero_shot/{name}"] for name in expected}
    assert found == pytest.approx(expected)


# --- Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"global_batch_size": 17, "accumulate": 2}, "17"),
        ({"mesh": (64, 1)}, "64"),
        ({"train_path": "trian.csv"}, "trian.csv"),
        ({"valid_path": "vald.csv"}, "vald.csv"),
        ({"model_name": "vit-bse-patch32"}, "vit-base-patch32"),
        ({"image_key": "picture"}, "image_path"),
        ({"train_path": None}, "--train-path"),
        ({"process_id": 3, "num_processes": None}, "coordinator_address"),
        ({"zero_shot_path": "clases"}, "clases"),
        ({"train_path": None, "valid_path": "valid.csv", "resume_from_checkpoint": "x"}, "export"),
        ({"resume_from_checkpoint": "x"}, "refused"),
        ({"checkpoint_freq": -1}, "--checkpoint-freq must be at least 0; got -1."),
        ({"accumulate": 0}, "--accumulate must be at least 1; got 0."),
        ({"beta2": 1.0}, "--beta2 must be less than 1; got 1.0."),
        ({"step_timeout": 0.0}, "--step-timeout must be more than 0; got 0.0."),
        ({"checkpoint_minutes": 0.0}, "--checkpoint-minutes must be more than 0; got 0.0."),
        ({"export_dir": "train.csv"}, "--export-dir must be a folder; train.csv is a file."),
        ({"train_path": "trian.csv", "pretrained": "nothing"}, "trian.csv"),
        ({"zero_shot_path": "broken"}, "0.jpg' is not an image"),
        ({"learning_rate": math.nan}, "--learning-rate"),
        ({"train_path": None, "valid_path": "valid.csv", "plan": True}, "--train-path"),
        ({"model_name": "hf-hub:nobody/nothing"}, "nobody/nothing/open_clip_config.json"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_options_are_refused_before_a_folder_is_made(call, folder, wrong, message):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        call(**{**TRAINING, "checkpoint_dir": "refused", **wrong})
    assert not (folder / "refused").exists()


def test_data_without_a_readable_image_are_refused_before_a_model_is_built(
    call, script, folder, monkeypatch
):
    rows = [f"digits/none{i}.png,the digit {i}" for i in range(2 * BATCH)]
    (folder / "unreadable.csv").write_text("image_path,caption\n" + "\n".join(rows))
    monkeypatch.setattr(script, "build", None)
    with pytest.raises(ValueError, match=r"11 of 11 examples that were read.*could not be used"):
        call(**{**TRAINING, "train_path": "unreadable.csv"})
    rows[1:] = [f"digits/{i:04}.png,the digit {i}" for i in range(1, BATCH)]
    (folder / "unreadable.csv").write_text("image_path,caption\n" + "\n".join(rows))
    with pytest.raises(ValueError, match=r"1 of 17 .*could not be used, more than `max_bad`=0.00%"):
        call(valid_path="unreadable.csv", global_batch_size=BATCH)


@pytest.mark.parametrize("process", [0, 1])
def test_a_few_examples_of_a_large_batch_are_tried_the_same_in_every_process(
    script, folder, monkeypatch, process
):
    monkeypatch.chdir(folder)
    tried, pixels = [], eqx_clip.Augment.pixels

    def recorded(self, image, rng):
        tried.append(image)
        return pixels(self, image, rng)

    monkeypatch.setattr(eqx_clip.Augment, "pixels", recorded)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    data = script.Data(train_path="train.csv", global_batch_size=8 * BATCH)
    split = script.open_split(script.Options(data=data), "train", "train.csv")
    assert split.steps_per_epoch == EPOCH // 8
    indices = eqx_clip.data.batches(
        split.source,
        batch_size=16,
        preprocess=eqx_clip.Preprocess(),
        tokenizer=eqx_clip.Tokenizer(),
        process_index=0,
        process_count=1,
    )
    expected = [split.source[int(i)]["image"] for i in next(indices)["index"]]
    assert tried == expected


def test_columns_may_be_named_that_were_found_before(call, whole, folder):
    shutil.copytree(whole, folder / "named")
    shutil.rmtree(folder / "named" / "open_clip")
    keys = {"image_key": "image_path", "text_key": "caption"}
    call(**TRAINING, **keys, resume_from_checkpoint="named", log_freq=0)
    assert (folder / "named" / "open_clip").is_dir()


def test_evaluating_new_weights_is_warned_of(call, capsys, caplog):
    call(valid_path="valid.csv", global_batch_size=BATCH)
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert any("--pretrained" in message for message in warned)
    assert "val/loss" in capsys.readouterr().out


def test_an_empty_folder_is_not_resumed(call, folder):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        call(**TRAINING, resume_from_checkpoint="empty")
    assert not list((folder / "empty").iterdir())


def test_an_older_checkpoint_is_not_gone_on_with_beside_a_newer_one(call, whole):
    with pytest.raises(ValueError, match=f"holds a checkpoint of step {STEPS}"):
        call(**TRAINING, resume_from_checkpoint=str(whole / str(EPOCH)))
    assert len(losses(whole)) == STEPS and checkpoints(whole) == [EPOCH, STEPS]


def test_a_run_stopped_before_its_evaluation_does_it_when_it_goes_on(call, whole, folder):
    shutil.copytree(whole, folder / "unevaluated")
    shutil.rmtree(folder / "unevaluated" / "open_clip")
    lines = [line for line in (whole / "log.jsonl").read_text().splitlines() if line]
    assert "val/loss" in lines[-1]
    (folder / "unevaluated" / "log.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    resume = {"resume_from_checkpoint": "unevaluated", "valid_path": "valid.csv"}
    call(**TRAINING, **resume, log_freq=0)
    assert_same_run(folder / "unevaluated", whole)


def test_a_folder_of_another_run_is_not_written_to(call, whole):
    before = sorted(whole.iterdir())
    with pytest.raises(ValueError, match="resume-from-checkpoint latest"):
        call(**TRAINING, checkpoint_dir=str(whole))
    assert sorted(whole.iterdir()) == before and len(losses(whole)) == STEPS


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"beta2": 0.95}, "beta2"),
        ({"global_batch_size": 32}, "batch_size"),
        ({"model_name": "vit-nano-patch32"}, "model.image.width"),
        ({"model_name": "quick.json"}, "activation"),
        ({"model_name": "darker.json"}, "preprocess.mean"),
        ({"train_path": "fewer.csv"}, "examples"),
        ({"text_key": "digit"}, "examples"),
        ({"augment_scale": (0.2, 0.3)}, "augment_scale"),
        ({"lock_image": 0}, "lock_image"),
    ],
    ids="seed optimizer batch model activation mean data column crops locked".split(),
)
def test_a_run_is_not_resumed_with_other_options(call, whole, other, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        call(**{**TRAINING, "resume_from_checkpoint": str(whole), **other})
    assert len(losses(whole)) == STEPS


def test_a_loss_that_is_not_finite_names_step_checkpoint_and_records(call, folder):
    with pytest.raises(FloatingPointError) as caught:
        call(**TRAINING, checkpoint_dir="diverged", learning_rate=1e30)
    message = str(caught.value)
    assert re.search(r"loss of step \d is (nan|inf)", message)
    assert f"There is no checkpoint yet in {folder / 'diverged'}" in message  # the first epoch's
    assert len(re.findall(r"train\.csv, row \d+: ", message)) == BATCH
    assert not checkpoints(folder / "diverged")
