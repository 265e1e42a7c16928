"""Batches: the same on any number of workers and processes, from any step, bad samples replaced."""

import io
import logging
import multiprocessing
import os
import pickle
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from PIL import Image

import eqx_clip
from eqx_clip.data import Mixture, batches


SIZE = 16


def encoded(i):
    """An image whose red is its index, and whose green tells crops apart."""
    pixels = np.zeros((20, 24 + i % 7, 3), np.uint8)
    pixels[..., 0] = i % 256
    pixels[..., 1] = np.linspace(0, 255, pixels.shape[1])
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


class Examples:
    """A user's own source: a sequence, at the top of a module, so that workers can load it."""

    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if i in self.broken:
            return {"image": b"<html>", "text": "gone"}
        return {"image": encoded(i), "text": f"example number {i}"}


class ErrorOfTwo(Exception):
    """Of a class that pickle cannot make again."""

    def __init__(self, one, other):
        super().__init__(f"{one} own {other}")


class Failing(Examples):
    def __init__(self, count, *error):
        super().__init__(count)
        self.error = error

    def __getitem__(self, i):
        if i == 13:
            kind, *words = self.error
            raise kind(*words)
        return super().__getitem__(i)


def make(source, **options):
    defaults = {
        "batch_size": 8,
        "preprocess": eqx_clip.Augment(SIZE),
        "tokenizer": eqx_clip.Tokenizer(context_length=12),
        "process_index": 0,
        "process_count": 1,
    }
    return batches(source, **{**defaults, **options})


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


def test_a_batch_holds_pixels_tokens_and_indices_that_belong_together():
    preprocess = eqx_clip.Preprocess(SIZE)
    batch = next(make(Examples(20), preprocess=preprocess))
    assert {name: (value.dtype, value.shape) for name, value in batch.items()} == {
        "image": (np.uint8, (8, 3, SIZE, SIZE)),
        "tokens": (np.int32, (8, 12)),
        "index": (np.int64, (8,)),
    }
    for image, tokens, i in zip(batch["image"], batch["tokens"], batch["index"], strict=True):
        np.testing.assert_array_equal(image, preprocess.pixels(encoded(i)))
        expected = eqx_clip.tokenize(f"example number {i}", context_length=12)
        np.testing.assert_array_equal(tokens, expected[0])


def test_processes_share_a_global_batch_that_does_not_depend_on_their_number():
    whole = list(make(Examples(50), epochs=2))
    for count in (2, 4):
        parts = [
            list(make(Examples(50), epochs=2, process_index=i, process_count=count))
            for i in range(count)
        ]
        joined = [
            {name: np.concatenate([part[name] for part in step]) for name in step[0]}
            for step in zip(*parts, strict=True)
        ]
        assert_equal(joined, whole)


def test_an_epoch_has_every_example_once_and_the_next_another_order():
    iterator = make(Examples(40), epochs=2)
    steps = [batch["index"] for batch in iterator]
    assert iterator.steps_per_epoch == 5 and len(steps) == 10
    first, second = np.concatenate(steps[:5]), np.concatenate(steps[5:])
    assert sorted(first) == sorted(second) == list(range(40))
    assert (first != second).any()


def test_an_example_is_augmented_anew_each_epoch():
    pixels, preprocess = {}, eqx_clip.Augment(SIZE, scale=(0.2, 0.8))
    for step, batch in enumerate(make(Examples(16), epochs=2, preprocess=preprocess)):
        for i, image in zip(batch["index"], batch["image"], strict=True):
            pixels[step // 2, int(i)] = image
    assert sum((pixels[0, i] != pixels[1, i]).any() for i in range(16)) > 12


@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
def test_resuming_is_starting_from_a_step(num_workers):
    uninterrupted = list(make(Examples(30), epochs=3, seed=7))
    resumed = list(make(Examples(30), epochs=3, seed=7, start_step=4, num_workers=num_workers))
    assert_equal(resumed, uninterrupted[4:])


def test_evaluation_is_one_pass_in_order_with_a_smaller_last_batch():
    options = {"shuffle": False, "epochs": 1, "drop_remainder": False}
    steps = [batch["index"] for batch in make(Examples(19), **options)]
    assert [len(step) for step in steps] == [8, 8, 3]
    np.testing.assert_array_equal(np.concatenate(steps), np.arange(19))
    parts = [
        [b["index"] for b in make(Examples(19), **options, process_index=i, process_count=4)]
        for i in range(4)
    ]
    assert [[len(step) for step in part] for part in parts] == [
        *([2, 2, 2], [2, 2, 1]),
        *([2, 2, 0], [2, 2, 0]),
    ]


@pytest.mark.parametrize("process_index", [0, 1])
def test_workers_make_a_smaller_last_batch_alike(process_index):
    """Of the last 13 rows the first process has all, which no whole number of chunks makes."""
    options = {"batch_size": 32, "epochs": 2, "drop_remainder": False}
    options |= {"process_index": process_index, "process_count": 2}
    alone, helped = (list(make(Examples(45), **options, num_workers=workers)) for workers in (0, 3))
    assert [len(batch["index"]) for batch in helped] == [16, (13, 0)[process_index]] * 2
    assert_equal(helped, alone)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_sample_is_replaced_counted_and_told(num_workers, caplog):
    broken = (3, 11, 12)
    iterator = make(Examples(40, broken), epochs=2, num_workers=num_workers)
    with caplog.at_level(logging.WARNING, "eqx_clip.data"):
        steps = list(iterator)
    assert iterator.bad_samples == {"UnidentifiedImageError": 6}
    used = np.concatenate([batch["index"] for batch in steps])
    assert len(used) == 80 and not np.isin(used, broken).any()
    (record,) = caplog.records  # the first of its kind
    assert "example" in record.message and "not an image" in record.message
    for batch in steps:
        for image, i in zip(batch["image"], batch["index"], strict=True):
            assert (image[0] == i).all(), "pixels are those of the index"


def test_what_takes_the_place_of_a_bad_sample_does_not_depend_on_workers_or_processes():
    source = Examples(40, broken=(3, 11, 12))
    whole = list(make(source, epochs=2))
    assert_equal(list(make(source, epochs=2, num_workers=2)), whole)
    halves = zip(
        *(make(source, epochs=2, process_index=i, process_count=2) for i in range(2)), strict=True
    )
    assert_equal([{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in halves], whole)


def test_too_many_bad_samples_end_training():
    source = Examples(1000, broken=range(0, 1000, 10))
    with pytest.raises(ValueError, match=r"more than `max_bad`=1\.00%.*UnidentifiedImageError 11"):
        list(make(source, epochs=2, preprocess=eqx_clip.Preprocess(4)))
    iterator = make(source, epochs=1, preprocess=eqx_clip.Preprocess(4), max_bad=0.2)
    assert len(list(iterator)) == 125


def test_a_bad_sample_always_ends_evaluation():
    with pytest.raises(ValueError, match="not an image"):
        list(make(Examples(40, broken=(21,)), shuffle=False, epochs=1))


def test_data_of_which_nothing_can_be_read_says_so():
    with pytest.raises(ValueError, match=r"could not be used.*not an image"):
        next(make(Examples(40, broken=range(40))))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_the_source_passes_through(num_workers):
    iterator = make(Failing(40, KeyError, "the source's own words"), num_workers=num_workers)
    with pytest.raises(KeyError, match="the source's own words"):
        list(iterator)
    assert_nothing_is_left()


def test_an_error_that_cannot_leave_its_process_is_told_by_its_words():
    iterator = make(Failing(40, ErrorOfTwo, "the source's", "words"), num_workers=1)
    with pytest.raises(RuntimeError, match="ErrorOfTwo: the source's own words") as raised:
        list(iterator)
    assert "in __getitem__" in str(raised.value.__cause__), "and where it came from"
    assert_nothing_is_left()


def test_a_worker_that_is_killed_ends_the_run_with_a_word_on_memory():
    iterator = make(Examples(40), num_workers=1)
    next(iterator)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    worker.join()
    with pytest.raises(RuntimeError, match=r"A worker process ended.*out of memory"):
        list(iterator)
    assert_nothing_is_left()


def test_stopping_early_leaves_nothing_behind():
    with make(Examples(40), num_workers=2) as iterator:
        next(iterator)
    assert_nothing_is_left()
    iterator = make(Examples(40), num_workers=2)
    next(iterator)
    del iterator
    assert_nothing_is_left()


def assert_nothing_is_left():
    assert not multiprocessing.active_children()
    assert [t for t in threading.enumerate() if t.name.startswith(("Queue", "Executor"))] == []


SCRIPT = """
    import signal, sys, time
    sys.path.insert(0, {tests!r})
    from test_batches import Examples, make

    if {guard}:
        signal.signal(signal.SIGTERM, lambda *_: print("told to end", flush=True))
        for step, batch in enumerate(make(Examples(40), num_workers={workers})):
            print(step, flush=True)
            time.sleep(0.05)
"""


def script(guard="__name__ == '__main__'", workers=2):
    tests = os.path.dirname(__file__)
    return textwrap.dedent(SCRIPT.format(tests=tests, guard=guard, workers=workers))


def start(tmp_path, **options):
    path = tmp_path / "script.py"
    path.write_text(script(**options))
    return subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX signals")
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_killed_trainer_leave_no_worker_behind(tmp_path, interrupt):
    process = start(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    if interrupt == signal.SIGINT:
        os.killpg(process.pid, interrupt)  # as a terminal does: workers get it, too
    else:
        process.kill()
    _, errors = process.communicate(timeout=60)  # its pipes close when the last worker has gone
    if interrupt == signal.SIGINT:
        assert errors.strip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") <= 2, "workers are silent"
    deadline = time.monotonic() + 30
    while group_exists(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group_exists(process.pid)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX signals")
def test_workers_go_on_while_a_trainer_that_is_told_to_end_saves_its_state(tmp_path):
    """A machine that is taken away tells all processes at once."""
    with start(tmp_path, workers=1) as process:  # which has started when there is a batch
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        os.killpg(process.pid, signal.SIGTERM)
        lines = [process.stdout.readline() for _ in range(30)]
        os.killpg(process.pid, signal.SIGKILL)
    assert "told to end\n" in lines and lines[-1] == "29\n", lines


def group_exists(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    _, errors = start(tmp_path, guard="True").communicate(timeout=120)
    assert 'if __name__ == "__main__":' in errors.strip().splitlines()[-1]


def test_a_script_from_standard_input_is_told_that_workers_need_a_file():
    result = subprocess.run([sys.executable], input=script(), capture_output=True, text=True)
    assert "comes from standard input" in result.stderr.strip().splitlines()[-1]


def test_a_worker_starts_no_backend_of_jax_and_imports_neither_tensorflow_nor_torch():
    iterator = make(Examples(16), num_workers=1, preprocess=Watching(SIZE), epochs=1)
    assert len(list(iterator)) == 2


class Watching(eqx_clip.Preprocess):
    def pixels(self, image, rng=None):
        from jax._src import xla_bridge

        assert multiprocessing.parent_process() is not None
        assert not xla_bridge.backends_are_initialized()
        assert not {"tensorflow", "torch"} & sys.modules.keys()
        return super().pixels(image, rng)


class Large(Examples):
    def __getitem__(self, i):
        stream = io.BytesIO()
        Image.new("RGB", (2000, 1500)).save(stream, "JPEG")
        return {"image": stream.getvalue(), "text": "large"}


class CountingPages(eqx_clip.Augment):
    """Gives the pages that the system had to map in place of pixels."""

    def pixels(self, image, rng=None):
        import resource  # which Windows has not

        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        result = super().pixels(image, rng)
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        return np.full_like(result, min(255, pages))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_a_worker_uses_the_memory_of_an_image_for_the_next():
    iterator = make(Large(16), preprocess=CountingPages(SIZE), num_workers=1, epochs=1)
    pages = np.concatenate([batch["image"][:, 0, 0, 0] for batch in iterator])
    assert np.median(pages) < 100, "and not some 5,000"


def test_a_mixture_draws_its_sources_by_their_factors():
    mixture = Mixture([Examples(16), Examples(8, broken=(5,))], factors=[1, 3])
    iterator = make(mixture, epochs=1)
    assert iterator.steps_per_epoch == 5
    counts = np.bincount(np.concatenate([batch["index"] for batch in iterator]), minlength=24)
    assert counts.sum() == 40 and counts[16 + 5] == 0
    assert iterator.bad_samples.total() == 3
    assert "example 5" in mixture.where(21)


def test_of_a_mixture_in_a_mixture_the_factors_are_multiplied():
    a, b, c = Examples(4), Examples(6), Examples(10)
    nested = Mixture([Mixture([a, b], [1, 3]), c], [2, 0.5])
    assert (nested.sources, nested.factors) == ((a, b, c), (2.0, 6.0, 0.5))
    assert make(nested, batch_size=1).steps_per_epoch == 8 + 36 + 5
    assert len(nested) == 20 and nested[4]["text"] == "example number 0"


def test_factors_that_cannot_be_are_refused():
    for factors, message in (
        ([1], "one factor for each source; got 1 factors for 2"),
        ([1, 0], "must be above 0"),
        ([1, float("inf")], "must be above 0"),
        ([1, 0.01], r"0\.01, an epoch has none of the 40 examples"),
    ):
        with pytest.raises(ValueError, match=message):
            Mixture([Examples(10), Examples(40)], factors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process_count": 3}, "`batch_size=8` must be a multiple of the 3 processes"),
        ({"batch_size": 41}, "40 examples, less than one batch of 41"),
        ({"batch_size": 0}, "`batch_size` must be a whole number above 0"),
        ({"process_index": 1}, "no process 1 of 1"),
        ({"preprocess": np.asarray}, "`preprocess` must be an `eqx_clip.Preprocess`"),
        ({"shuffle": "all"}, "`shuffle` must be True, False or 'blocks'"),
        ({"seed": -1}, "`seed`"),
        ({"start_step": -1}, "`start_step`"),
        ({"num_workers": 1.5}, "`num_workers`"),
        ({"epochs": 0}, "`epochs`"),
        ({"max_bad": 3.0}, "`max_bad`"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        make(Examples(40), **options)


def test_what_cannot_be_sent_to_workers_is_refused():
    with pytest.raises(ValueError, match=r"cannot be sent to workers.*num_workers=0"):
        next(make(Examples(40), tokenizer=lambda texts: np.zeros((len(texts), 4)), num_workers=1))


def test_a_source_of_files_is_small_in_a_worker(tmp_path):
    (tmp_path / "0.png").write_bytes(encoded(0))
    rows = "".join(f"0.png,a caption of some length {i}\n" for i in range(20_000))
    (tmp_path / "table.csv").write_text("filepath,title\n" + rows)
    source = eqx_clip.data.open_source(tmp_path / "table.csv")
    assert len(source) == 20_000 and len(pickle.dumps(source)) < 1000
