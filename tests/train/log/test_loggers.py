"""Loggers, the console, the meter and the picture of a run."""

import io
import json
import math
import os
import sys
import types

import numpy as np
import pytest
from PIL import Image

from eqx_clip import train
from eqx_clip.train.__main__ import main
from eqx_clip.train.log.curves import smoothed


def log_of(path, steps, **options):
    logger = train.JSONLines(path, **options)
    for step in steps:
        logger.log(step, {"loss": 5 - 0.1 * step})
    logger.close()


def steps_of(path):
    return [line["step"] for line in train.read_lines(path)]


def test_a_line_holds_all_digits_and_is_written_at_once(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    logger = train.JSONLines(path)
    loss = np.float32(0.1)
    logger.log(3, {"loss": loss, "grad_norm": 1 / 3, "count": 7})
    (line,) = train.read_lines(path)  # the logger is still open
    assert line == {"step": 3, "loss": float(loss), "grad_norm": 1 / 3, "count": 7}
    assert np.float32(line["loss"]) == loss
    logger.close()


def test_numbers_that_are_not_finite_leave_json_valid(tmp_path):
    logger = train.JSONLines(tmp_path / "log.jsonl")
    logger.log(0, {"loss": math.nan, "grad_norm": -math.inf, "logit_scale": np.float32(1)})
    logger.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    (text,) = (tmp_path / "log.jsonl").read_text().splitlines()
    entry = json.loads(text, parse_constant=refuse)
    assert entry == {"step": 0, "loss": None, "grad_norm": None, "logit_scale": 1.0}


def test_a_resumed_run_has_each_step_once(tmp_path):
    path = tmp_path / "log.jsonl"
    log_of(path, range(1, 9))
    log_of(path, range(6, 11), start_step=5)
    assert steps_of(path) == list(range(1, 11))
    log_of(path, [], start_step=100)
    assert steps_of(path) == list(range(1, 11))
    log_of(path, [1])
    assert steps_of(path) == [1]
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_a_resumed_run_has_each_evaluation_once(tmp_path):
    """That of the step which it goes on from is done again."""
    path = tmp_path / "log.jsonl"
    log_of(path, [19, 20])
    with open(path, "a") as file:
        file.write('{"step": 20, "val/loss": 2.5}\n{"step": 21, "loss": 2.0}\n')
    log_of(path, [21], start_step=20)
    assert steps_of(path) == [19, 20, 21]
    assert all("loss" in line for line in train.read_lines(path))


@pytest.mark.parametrize("cut", [1, 5, 15])
def test_a_line_that_a_kill_left_unfinished_is_dropped(tmp_path, cut):
    path = tmp_path / "log.jsonl"
    log_of(path, range(4))
    path.write_bytes(path.read_bytes()[:-cut])
    assert steps_of(path) == [0, 1, 2]
    log_of(path, [3, 4], start_step=10)
    assert steps_of(path) == [0, 1, 2, 3, 4]


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    logger = train.JSONLines(path)
    logger.log(0, {"loss": 1.0})

    class Full:
        name, file = str(path), logger._file
        tell, truncate, close = file.tell, file.truncate, file.close

        def write(self, line):
            return self.file.write(line[:5])

    logger._file = Full()
    with pytest.raises(OSError, match="No space left"):
        logger.log(1, {"loss": 1.0})
    logger.close()
    assert steps_of(path) == [0] and path.read_bytes().endswith(b"}\n")


def test_a_file_of_another_kind_is_not_touched(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("filepath,title\na.jpg,a\n")
    with pytest.raises(ValueError, match=r"Line 1 of .* is no JSON object with a step"):
        train.JSONLines(path)
    assert path.read_text() == "filepath,title\na.jpg,a\n"
    with pytest.raises(ValueError, match="local file; got 'gs://"):
        train.JSONLines("gs://bucket/log.jsonl")


def scalars(folder):
    """(step, name, value) of the event files, by tensorboardX's own messages."""
    from tensorboardX.proto import event_pb2

    from eqx_clip.data._files import look_at
    from eqx_clip.data._tfrecord import index_records, read_record

    found, purged = [], []
    for path in sorted(folder.iterdir()):
        index = index_records(look_at(str(path)))
        for start, size in zip(index["start"], index["size"], strict=True):
            event = event_pb2.Event.FromString(read_record(str(path), int(start), int(size)))
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            if event.HasField("session_log"):
                purged.append(event.step)
    return found, purged


def test_tensorboard_gets_scalars_and_where_a_run_was_resumed(tmp_path):
    logger = train.TensorBoard(tmp_path, start_step=7)
    logger.log(7, {"loss": np.float32(2.5), "val/loss": 3.5})
    logger.log(8, {"loss": math.nan})
    logger.close()
    found, purged = scalars(tmp_path)
    assert found[:2] == [(7, "loss", 2.5), (7, "val/loss", 3.5)]
    assert found[2][:2] == (8, "loss") and math.isnan(found[2][2])
    assert purged == [8]  # step 7 is taken
    assert "tensorflow" not in sys.modules


def test_weights_and_biases_gets_a_run_that_can_be_resumed(monkeypatch):
    calls = []

    class Run:
        def log(self, metrics, step):
            calls.append((step, metrics))

        def finish(self):
            calls.append("finish")

    def init(**options):
        calls.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    logger = train.WandB("digits", run_id="2026-11-24", config={"seed": 0})
    logger.log(3, {"loss": np.float32(0.5)})
    logger.close()
    started = {"project": "digits", "id": "2026-11-24", "resume": "allow", "config": {"seed": 0}}
    assert calls == [started, (3, {"loss": 0.5}), "finish"]
    train.WandB("digits")
    assert calls[-1] == {"project": "digits", "id": None, "resume": None, "config": {}}


def test_loggers_that_are_not_installed_say_how(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        train.WandB("digits")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'eqx_clip\[train\]'"):
        train.TensorBoard(tmp_path)


def test_all_loggers_have_one_protocol(tmp_path):
    logger = train.JSONLines(tmp_path / "log.jsonl")
    console = train.Console(1, stream=io.StringIO())
    assert isinstance(logger, train.Logger) and isinstance(console, train.Logger)
    assert issubclass(train.TensorBoard, train.Logger) and issubclass(train.WandB, train.Logger)
    logger.close()


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_meter_tells_rate_and_share_of_waiting():
    clock = Clock()
    meter = train.Meter(clock)

    def feed():
        for _ in range(6):
            clock.now += 0.25
            yield "batch"

    for i, _ in enumerate(meter.waits(feed())):
        clock.now += 0.75
        meter.count(16)
        if i == 2:
            assert meter.read() == {"images_per_second": 16.0, "data_wait": 0.25}
            clock.now += 1000  # an evaluation
            meter.reset()
    assert meter.read() == {"images_per_second": 16.0, "data_wait": 0.25}
    clock.now += 1000  # a compilation
    assert meter.read() == {}


class Terminal(io.StringIO):
    def isatty(self):
        return True


METRICS = {"loss": 2.34567, "images_per_second": 1234.5, "data_wait": 0.031, "grad_norm": 1.0}


def test_a_terminal_has_a_bar_with_what_matters():
    stream = Terminal()
    console = train.Console(100, start_step=10, stream=stream, process_index=0)
    console.log(50, METRICS)
    console.log(50, {"val/loss": 3.14159, "val/image_to_text_R@1": 0.25})
    console.close()
    out = stream.getvalue()
    last = out.rsplit("\r", 1)[-1]
    assert "50%" in last and "50/100" in last
    assert "loss 2.346, 1,234 images/s, data wait 3%" in last
    assert "step 50: val/loss 3.142, val/image_to_text_R@1 0.25\n" in out


def test_a_file_has_lines_with_the_remaining_time():
    stream, clock = io.StringIO(), Clock()
    console = train.Console(100, start_step=10, stream=stream, process_index=0, clock=clock)
    clock.now += 1000  # the first step is compiled
    console.log(11, {"loss": 5.0})
    console.log(11, {"loss": 5.0})  # no step has been taken since
    clock.now += 78
    console.advance(31)
    console.log(50, METRICS)
    console.close()
    expected = "step 50/100, loss 2.346, 1,234 images/s, data wait 3%, 01:40 left\n"
    assert stream.getvalue() == 2 * "step 11/100, loss 5\n" + expected


@pytest.mark.parametrize("kind", [io.StringIO, Terminal], ids=["file", "terminal"])
def test_compiling_is_said_and_is_no_part_of_the_remaining_time(kind):
    stream, clock = kind(), Clock()
    console = train.Console(100, stream=stream, process_index=0, clock=clock)
    for step in range(1, 51):
        compiles = step in (1, 3, 40)
        with console.compiling(f"captions of {step} tokens", compiles):
            clock.now += 1000 if compiles else 2
        if step < 50:
            console.advance(step)
    console.log(50, METRICS)
    console.close()
    written = stream.getvalue()
    for step in (1, 3, 40):
        assert written.count(f"compiling for captions of {step} tokens\n") == 1
    assert written.count("compiling") == 3
    last = written.rsplit("\r", 1)[-1]
    assert ("<01:40, loss" if kind is Terminal else "01:40 left") in last


def test_other_processes_print_nothing():
    stream = Terminal()
    console = train.Console(100, stream=stream, process_index=3)
    console.advance(0)
    console.log(1, METRICS)
    console.log(1, {"val/loss": 1.0})
    console.write("hello")
    console.close()
    assert stream.getvalue() == ""


def test_smoothing_is_a_mean_of_what_is_finite():
    values = np.array([1.0, np.nan, 3.0, *[5.0] * 297])
    smooth = smoothed(values)
    assert smooth[0] == np.mean([1.0, 3.0, 5.0])  # three to each side
    assert smooth[4] == np.mean([3.0, *[5.0] * 5])
    np.testing.assert_array_equal(smoothed(values[:5]), values[:5])
    assert np.isnan(smoothed(np.full(300, np.nan))).all()


def run_log(path, steps=300, *, broken=()):
    rng = np.random.default_rng(0)
    logger = train.JSONLines(path)
    for step in range(steps):
        loss = 5.5 * math.exp(-step / 100) + 0.3 * rng.random() + 0.5
        metrics = {
            "loss": math.nan if step in broken else loss,
            "learning_rate": 1e-3 * min(1, step / 50),
            "logit_scale": 14 + step / 20,
            "grad_norm": 5 * math.exp(-step / 150) * (1 + rng.random()),
        }
        logger.log(step, metrics | ({"chance": math.log(256)} if step == 0 else {}))
        if step % 50 == 49:
            logger.log(step, {"val/loss": loss + 0.4})
    logger.close()


def colours_of(path):
    """How many pixels are (nearly) of the red of validation and of broken steps, and the blue."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return [
        int((np.abs(pixels - colour).max(axis=-1) < 12).sum())
        for colour in ((0xC0, 0x39, 0x2B), (0x1F, 0x5F, 0xA8))
    ]


def test_the_command_draws_the_curves(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_log(tmp_path / "log.jsonl")
    main(["log.jsonl", "--picture", "curves.png"])
    assert capsys.readouterr().out == "Drew it: curves.png\n"
    red, blue = colours_of("curves.png")
    assert red > 300 and blue > 3000
    with Image.open("curves.png") as picture:
        assert picture.width > 1500


def test_a_log_of_losses_alone_is_drawn_and_broken_steps_are_marked(tmp_path):
    log_of(tmp_path / "log.jsonl", range(30))
    train.draw_curves(tmp_path / "log.jsonl", tmp_path / "loss.png")
    red, blue = colours_of(tmp_path / "loss.png")
    assert red == 0 and blue > 500
    logger = train.JSONLines(tmp_path / "log.jsonl", start_step=20)
    logger.log(20, {"loss": math.inf})
    logger.close()
    train.draw_curves(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert colours_of(tmp_path / "loss.png")[0] > 100
    log_of(tmp_path / "log.jsonl", [0])
    train.draw_curves(tmp_path / "log.jsonl", tmp_path / "one.svg")
    logger = train.JSONLines(tmp_path / "log.jsonl")
    logger.log(0, {"loss": math.nan})
    logger.close()
    train.draw_curves(tmp_path / "log.jsonl", tmp_path / "none.png")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere.jsonl",), "No such file"),
        (("log.jsonl",), "has a loss"),
        (("log.jsonl", "--picture", "nowhere/loss.png"), "There is no folder nowhere"),
        (("log.jsonl", "--picture", "loss.bmp"), "must end in .png, .pdf or .svg"),
    ],
    ids=["file", "loss", "folder", "picture"],
)
def test_a_mistake_in_drawing_is_told_in_a_line(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 0, "val/loss": 1.0}\n')
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error


def test_without_matplotlib_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    log_of(tmp_path / "log.jsonl", [0])
    with pytest.raises(ImportError, match=r"pip install 'eqx_clip\[train\]'"):
        train.draw_curves(tmp_path / "log.jsonl", tmp_path / "loss.png")


def test_a_logger_that_cannot_write_does_not_end_the_run(caplog):
    class Full:
        def log(self, step, metrics):
            raise OSError("No space left on device")

        def close(self):
            pass

    class Kept(Full):
        def log(self, step, metrics):
            kept.append((step, metrics))

    kept = []
    train.log_all([Full(), Kept()], 3, {"loss": 1.0})
    assert kept == [(3, {"loss": 1.0})]
    assert "Step 3 is not logged by Full: No space left on device" in caplog.text


def test_runs_of_equal_names_are_two_in_weights_and_biases(monkeypatch):
    class Fake:
        def __init__(self, project, *, run_id, config):
            ids.append(run_id)

        def log(self, step, metrics):
            pass

        def close(self):
            pass

    ids = []
    monkeypatch.setattr(train.log.loggers, "WandB", Fake)
    for folder in ("gs://a/checkpoints", "gs://b/checkpoints", "gs://a/checkpoints"):
        train.make_loggers(folder, wandb_project="clip")
    first, second, again = ids
    assert first == again != second and first.startswith("checkpoints-")
