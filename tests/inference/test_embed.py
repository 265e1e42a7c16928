"""`embed_images` and `embed_texts`: one at a time's numbers, from many inputs of many kinds."""

import _thread
import gc
import io
import os
import signal
import threading
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_VIT, IdSums, quick_model, tiny
from PIL import Image, ImageSequence

import eqx_clip
from eqx_clip import embed_images, embed_texts, sharding
from eqx_clip.inference import embed as embedding
from eqx_clip.nn.attention import Attention
from eqx_clip.nn.stack import Stack


TEXTS = [
    "a dog",
    "",
    "one two three four five six seven",
    "a cat!",
    "word " * 30,
    "x",
    "größe",
    "a",
]
encode_image = eqx.filter_jit(lambda model, image: model.encode_image(image))
encode_text = eqx.filter_jit(lambda model, tokens: model.encode_text(tokens))


class MeanText(eqx_clip.CLIP):
    """A CLIP whose texts are the means of all their tokens, padding included."""

    def encode_text(self, tokens, *, normalize=True):
        return self.text.features(tokens).mean(axis=0)


def test_a_subclass_with_its_own_encode_text_gets_whole_texts():
    model = tiny()
    parts = {name: getattr(model, name) for name in ("image", "text", "preprocess", "tokenizer")}
    own = MeanText(**parts)
    expected = jax.vmap(own.encode_text)(own.tokenize(TEXTS))
    np.testing.assert_allclose(embed_texts(own, TEXTS, progress=False), expected, atol=1e-6)


def some_images(count, size=(9, 12)):
    rng = np.random.default_rng(count)
    return list(rng.integers(0, 256, (count, *size, 3), np.uint8))


def one_at_a_time(model, images):
    return np.stack([encode_image(model, model.preprocess(image)) for image in images])


def texts_one_at_a_time(model, texts):
    return np.stack([encode_text(model, tokens) for tokens in model.tokenize(texts)])


def assert_close(ours, theirs):
    assert type(ours) is np.ndarray and ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def quick():
    return quick_model()


# Features


def test_images_have_the_features_of_one_at_a_time_in_their_order(model, tmp_path):
    array = some_images(1, (30, 70))[0]
    Image.fromarray(array[:, :50]).save(tmp_path / "image.png")
    images = [
        array,
        Image.fromarray(array[5:]),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        (tmp_path / "image.png").read_bytes(),
        array[:, :, 0],
    ]
    expected = one_at_a_time(model, images)
    assert_close(embed_images(model, images, batch_size=4), expected)
    assert_close(embed_images(model, tuple(images[::-1]), batch_size=4), expected[::-1])
    assert_close(embed_images(model, (image for image in images), batch_size=4), expected)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_images_may_be_one_array(quick, kind):
    images = some_images(5)
    features = embed_images(quick, kind(np.stack(images)), batch_size=2)
    assert_close(features, one_at_a_time(quick, images))


def test_an_opened_file_may_stand_in_a_list_twice(quick, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)).save(tmp_path / "image.jpg")
    expected = one_at_a_time(quick, [tmp_path / "image.jpg"])
    for _ in range(5):
        with Image.open(tmp_path / "image.jpg") as image:
            features = embed_images(quick, [image] * 8)
        assert_close(features, expected.repeat(8, axis=0))


def test_frames_of_an_animation_are_images(quick, tmp_path):
    first, *rest = (Image.fromarray(frame) for frame in some_images(6))
    first.save(tmp_path / "image.gif", save_all=True, append_images=rest)
    with Image.open(tmp_path / "image.gif") as image:
        frames = [frame.copy() for frame in ImageSequence.Iterator(image)]
        features = embed_images(quick, ImageSequence.Iterator(image), batch_size=4)
    assert len(frames) == 6
    assert_close(features, one_at_a_time(quick, frames))


def test_a_generator_may_close_and_change_what_it_has_given(quick, tmp_path):
    images = some_images(9, (480, 640))
    paths = [tmp_path / f"{i}.jpg" for i in range(9)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    paths[3].write_bytes(paths[3].read_bytes()[:5000])

    def opened():
        for path in paths:
            with Image.open(path) as image:
                yield image

    def refilled():
        array = np.empty_like(images[0])
        for image in images:
            array[:] = image
            yield array

    skipped = {}
    features = embed_images(quick, opened(), batch_size=2, on_error=skipped.__setitem__)
    assert_close(features, one_at_a_time(quick, paths[:3] + paths[4:]))
    assert list(skipped) == [3] and "3.jpg' cannot be decoded" in str(skipped[3])
    assert_close(embed_images(quick, refilled(), batch_size=2), one_at_a_time(quick, images))


def test_open_files_are_images_also_twice_and_where_a_generator_closes_them(quick, tmp_path):
    arrays, paths = some_images(5), []
    for i, array in enumerate(arrays):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(array).save(paths[-1])

    def closing():
        buffer = bytearray()
        for i, path in enumerate(paths):
            if i == 2:  # written over, as a reader of a stream does
                buffer[:] = path.read_bytes()
                yield buffer
                continue
            with open(path, "rb") as file:
                yield file

    expected = embed_images(quick, arrays)
    assert_close(embed_images(quick, closing(), batch_size=2), expected)
    file = io.BytesIO(paths[0].read_bytes())
    assert_close(embed_images(quick, [file] * 40), expected[[0] * 40])


def test_paths_may_be_an_array(quick, tmp_path):
    Image.fromarray(some_images(1)[0]).save(tmp_path / "image.png")
    paths = np.array([str(tmp_path / "image.png")] * 3)
    assert_close(embed_images(quick, paths), one_at_a_time(quick, paths))


def test_texts_of_a_tower_that_is_not_causal_are_not_cut(model):
    width, heads = model.text.config.width, model.text.config.num_heads

    def attention(key):
        return Attention(width, heads, key=key)

    attentions = Stack(attention, len(model.text.stack), key=jax.random.key(0)).block
    model = eqx.tree_at(lambda model: model.text.stack.block.attn, model, attentions)
    assert_close(embed_texts(model, TEXTS, batch_size=2), texts_one_at_a_time(model, TEXTS))


def test_texts_of_a_tower_that_reads_another_token_are_not_cut(model):
    class LastToken(eqx_clip.TextTransformer):
        def __call__(self, tokens):
            return self.features(tokens)[-1] @ self.proj

    text = LastToken(model.text.config, key=jax.random.key(0))
    model = eqx.tree_at(lambda model: model.text, model, text)
    assert_close(embed_texts(model, TEXTS, batch_size=2), texts_one_at_a_time(model, TEXTS))


def test_texts_have_the_features_of_one_at_a_time_in_their_order(model):
    expected = texts_one_at_a_time(model, TEXTS)
    assert_close(embed_texts(model, TEXTS, batch_size=4), expected)
    assert_close(embed_texts(model, tuple(TEXTS[::-1]), batch_size=4), expected[::-1])
    assert_close(embed_texts(model, (text for text in TEXTS), batch_size=4), expected)
    assert_close(embed_texts(model, np.array(TEXTS), batch_size=4), expected)


def test_order_holds_over_many_batches_and_windows(model, monkeypatch):
    monkeypatch.setattr(embedding, "WINDOW", 2)
    texts = [TEXTS[i % len(TEXTS)] + " z" * (i % 3) for i in range(19)]
    expected = texts_one_at_a_time(model, texts)
    assert_close(embed_texts(model, texts, batch_size=4), expected)
    assert_close(embed_texts(model, iter(texts[:9]), batch_size=4), expected[:9])


def test_one_string_is_one_text(quick):
    assert_close(embed_texts(quick, "a dog"), texts_one_at_a_time(quick, ["a dog"]))


def test_features_do_not_depend_on_what_fills_the_last_batch(quick):
    images = some_images(7)
    expected = one_at_a_time(quick, images)
    for batch_size in (1, 3, 7, 64):
        assert_close(embed_images(quick, images, batch_size=batch_size), expected)
    texts = [f"text {i}" for i in range(7)]
    expected = texts_one_at_a_time(quick, texts)
    for batch_size in (1, 3, 7, 64):
        assert_close(embed_texts(quick, texts, batch_size=batch_size), expected)


def test_a_tower_that_does_not_say_what_it_uses_is_given_the_whole_context(quick, monkeypatch):
    shapes = []

    def encode(model, tokens):
        shapes.append(tokens.shape)
        return jax.vmap(model.encode_text)(tokens)

    monkeypatch.setattr(embedding, "_encode_texts", encode)
    texts = ["a dog", "x", "word " * 100]
    assert_close(embed_texts(quick, texts), texts_one_at_a_time(quick, texts))
    assert shapes == [(4, 77)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_features_of_a_model_of_half_precision_are_float32(dtype):
    model = jax.tree.map(lambda leaf: leaf.astype(dtype), quick_model())
    images, texts = some_images(3), ["a dog", "x"]
    assert_close(embed_images(model, images), one_at_a_time(model, images))
    assert_close(embed_texts(model, texts), texts_one_at_a_time(model, texts))
    assert embed_images(model, []).dtype == np.float32


@pytest.mark.parametrize("nothing", [list, tuple, lambda: iter([])])
def test_no_inputs_give_no_rows(quick, nothing):
    for features in (embed_images(quick, nothing()), embed_texts(quick, nothing())):
        assert features.shape == (0, 6) and features.dtype == np.float32
    assert embed_texts(quick, np.array([], str)).shape == (0, 6)
    assert embed_images(quick, np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 6)


# What is computed


def traced(tower, traces):
    """The tower, noting each compilation: a class of its own, which JAX has not compiled for."""

    class Traced(eqx.Module):
        tower: eqx.Module

        @property
        def embed_dim(self):
            return self.tower.embed_dim

        def __call__(self, example):
            traces.append(example.shape)
            return self.tower(example)

    class TracedText(Traced):
        def used_lengths(self, tokens):
            return self.tower.used_lengths(tokens)

    return (TracedText if hasattr(tower, "used_lengths") else Traced)(tower)


class FirstIds(IdSums):
    """Reads a text up to its highest id, the end of text, and says so."""

    def __call__(self, tokens):
        used = jnp.arange(len(tokens)) <= jnp.argmax(tokens)
        return jnp.where(used, tokens / 1e4 + 1, 0) @ self.proj[: len(tokens)]

    def used_lengths(self, tokens):
        return np.argmax(tokens, axis=-1) + 1


# Meshes

MESHES = {
    "data": (4, 1),
    "fsdp": (1, 4),
    "both": (2, 2),
    "explicit": jax.make_mesh((2, 2), ("rows", "fsdp"), devices=jax.devices()[:4]),
}


@pytest.fixture(params=MESHES)
def on_mesh(request, model):
    mesh = MESHES[request.param]
    if isinstance(mesh, tuple):
        mesh = sharding.make_mesh(*mesh, devices=jax.devices()[:4])
    return sharding.place(model, mesh)


def test_batches_are_spread_over_the_mesh_that_the_model_lies_on(model, on_mesh, monkeypatch):
    def flops_of_each_device(encode, model, batch):
        return encode.lower(model, batch).compile().compiled.cost_analysis()["flops"]

    seen = []
    for name in ("_encode_images", "_encode_texts"):
        encode = getattr(embedding, name)
        monkeypatch.setattr(
            embedding,
            name,
            lambda model, batch, encode=encode: (
                seen.append((encode, batch)),
                encode(model, batch),
            )[1],
        )
    embed_images(on_mesh, some_images(8), batch_size=8)
    embed_texts(on_mesh, TEXTS, batch_size=8)
    for encode, batch in seen:
        whole = flops_of_each_device(encode, model, np.asarray(batch))
        # A quarter, and for the smallest texts what puts sharded weights together.
        assert 0.24 < flops_of_each_device(encode, on_mesh, batch) / whole < 0.33


@pytest.mark.parametrize("batch_size", [1, 6])
def test_a_mesh_gives_the_features_of_one_device_whatever_it_divides(model, on_mesh, batch_size):
    images, texts = some_images(7), TEXTS[:7]
    options = {"batch_size": batch_size, "progress": False}
    assert_close(
        embed_images(on_mesh, images, **options), embed_images(model, images, progress=False)
    )
    assert_close(embed_texts(on_mesh, texts, **options), embed_texts(model, texts, progress=False))
    assert embed_images(on_mesh, []).shape == (0, 24)


def test_a_batch_goes_to_the_device_that_the_model_is_on(quick):
    device = jax.devices()[1]
    there = jax.device_put(quick, device)
    with jax.transfer_guard_device_to_device("disallow"):
        found = embed_images(there, some_images(3))
    np.testing.assert_allclose(found, embed_images(quick, some_images(3)), atol=1e-6)


def test_images_are_compiled_for_once():
    traces = []
    model = quick_model(image=traced(quick_model().image, traces))
    for count in (9, 4, 10):
        assert len(embed_images(model, iter(some_images(count)), batch_size=4)) == count
    assert traces == [(3, 8, 8)]


def test_fewer_inputs_than_a_batch_are_filled_up_to_a_power_of_two():
    traces = []
    model = quick_model(image=traced(quick_model().image, traces))
    for count in (5, 6, 7, 8):
        embed_images(model, some_images(count), batch_size=64)
    assert len(traces) == 1  # 8
    for count in (5, 6):
        embed_images(model, some_images(count), batch_size=6)
    assert len(traces) == 2  # 6: never more than a batch


def test_texts_are_compiled_for_few_lengths(monkeypatch):
    traces = []
    tower = FirstIds(quick_model().text.proj)
    model = quick_model(text=traced(tower, traces))
    monkeypatch.setattr(embedding, "WINDOW", 8)
    # Start, end, and one token a word: texts of 3 to 20 tokens, in four windows.
    texts = ["a " * (1 + (7 * i) % 18) for i in range(90)]
    expected = texts_one_at_a_time(quick_model(text=tower), texts)
    assert_close(embed_texts(model, texts, batch_size=3), expected)
    assert sorted(traces) == [(8,), (16,), (24,)]


def test_a_row_is_cut_no_shorter_than_its_tower_uses(monkeypatch):
    seen = []

    def encode(model, tokens):
        seen.extend(tokens)
        return jnp.ones((len(tokens), 6))

    monkeypatch.setattr(embedding, "_encode_texts", encode)
    model = quick_model(text=FirstIds(quick_model().text.proj))
    texts = ["a " * count for count in (5, 6, 7, 13, 14, 15, 100)]
    embed_texts(model, texts, batch_size=1)
    assert [len(row) for row in seen] == [77, 24, 16, 16, 16, 8, 8]
    assert all(row.max() == model.tokenizer.eot_token_id for row in seen)


# Bad input


def test_a_broken_file_is_named_with_its_index(quick, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for path, image in zip(paths, some_images(9), strict=True):
        Image.fromarray(image).save(path)
    paths[6].write_bytes(paths[6].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"^Image 6 cannot be read\. .*6\.png.*truncated") as info:
        embed_images(quick, paths, batch_size=2)
    assert isinstance(info.value.__cause__, ValueError)

    paths[6].unlink()
    with pytest.raises(ValueError, match=r"^Image 6 cannot be read\. .*6\.png") as info:
        embed_images(quick, iter(paths), batch_size=2)
    assert isinstance(info.value.__cause__, FileNotFoundError)


def test_on_error_leaves_images_out_and_says_which(quick, tmp_path):
    images = some_images(9)
    given = [*images, b"no image", tmp_path / "missing.png"]
    order = [9, 0, 1, 2, 10, 3, 4, 5, 6, 7, 8]
    skipped = {}
    features = embed_images(
        quick, [given[i] for i in order], batch_size=4, on_error=skipped.__setitem__
    )
    assert_close(features, one_at_a_time(quick, images))
    assert list(skipped) == [0, 4]
    assert isinstance(skipped[0], ValueError) and isinstance(skipped[4], FileNotFoundError)


def test_if_every_image_is_left_out_no_rows_remain(quick):
    skipped = {}
    features = embed_images(quick, [b"a", b"b", b"c"], on_error=skipped.__setitem__)
    assert features.shape == (0, 6) and features.dtype == np.float32
    assert list(skipped) == [0, 1, 2]


@pytest.mark.parametrize("kind", [ValueError, OSError, KeyError])
def test_what_on_error_raises_passes_through(quick, kind):
    error = kind("enough")

    def stop(index, reason):
        raise error

    with pytest.raises(kind) as info:
        embed_images(quick, [*some_images(3), b"no image"], on_error=stop)
    assert info.value is error


@pytest.mark.parametrize(
    "one",
    [
        Image.new("RGB", (9, 9)),
        "image.png",
        b"bytes",
        np.zeros((9, 9, 3), np.uint8),
        jnp.zeros((9, 9), jnp.uint8),
        Path("image.png"),
        bytearray(b"bytes"),
        memoryview(b"bytes"),
        io.BytesIO(b"bytes"),
    ],
)
def test_one_image_in_place_of_several_is_refused(quick, one):
    with pytest.raises(ValueError, match=r"Expected several images; got one, .*`\[image\]`"):
        embed_images(quick, one)


def test_images_in_an_array_of_floats_are_refused_with_the_remedy(quick):
    with pytest.raises(ValueError, match=r"Image 0 cannot be read\. An image array is uint8"):
        embed_images(quick, np.zeros((2, 9, 9, 3)))


def test_a_text_that_is_no_string_is_named_by_its_place_among_all(quick, monkeypatch):
    monkeypatch.setattr(embedding, "WINDOW", 2)
    texts = ["a"] * 11
    for index, wrong in ((0, None), (3, 7), (9, b"a")):
        given = [*texts[:index], wrong, *texts[index:]]
        for kind in (list, iter):
            with pytest.raises(
                ValueError, match=rf"caption {index} is of type {type(wrong).__name__}"
            ):
                embed_texts(quick, kind(given), batch_size=2)


@pytest.mark.parametrize("wrong", [None, 3, b"a dog", {"a dog": 1}, np.array("a dog")])
def test_what_is_no_list_of_texts_is_refused(quick, wrong):
    with pytest.raises(ValueError, match="string"):
        embed_texts(quick, wrong)


@pytest.mark.parametrize("wrong", [None, 3, {"a.png": 1}])
def test_what_is_no_list_of_images_is_refused(quick, wrong):
    with pytest.raises(ValueError, match=f"Expected several images in a list; got {wrong}"):
        embed_images(quick, wrong)


def test_a_folder_is_refused_with_how_to_name_its_files(quick, tmp_path):
    for folder in (tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match=r"is a folder; pass its files, .*glob\('\*\.jpg'\)"):
            embed_images(quick, folder)


def test_on_error_must_be_a_function(quick):
    with pytest.raises(ValueError, match=r"`on_error` must be a function .* got 'skip'"):
        embed_images(quick, [], on_error="skip")


def test_texts_outside_a_small_vocabulary_are_refused():
    text = {**TINY_VIT["text_cfg"], "vocab_size": 100}
    model = tiny({**TINY_VIT, "text_cfg": text})
    with pytest.raises(ValueError, match=r"token ids from 0 to 99.*got 0 to 49407"):
        embed_texts(model, ["a dog", "a cat"])


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, None, True])
def test_impossible_batch_sizes_are_refused(quick, batch_size):
    for embed, inputs in ((embed_images, some_images(2)), (embed_texts, ["a"])):
        with pytest.raises(ValueError, match="`batch_size` must be a whole number above 0; got"):
            embed(quick, inputs, batch_size=batch_size)


# Errors and interruptions


def failing(good, error):
    yield from good
    raise error


INPUTS = {embed_images: some_images(9), embed_texts: ["a dog"] * 9}


@pytest.mark.parametrize("embed", INPUTS)
@pytest.mark.parametrize("kind", [RuntimeError, OSError, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("count", [0, 9])
def test_errors_of_the_generator_pass_through_and_leave_no_thread(quick, embed, kind, count):
    error = kind("mine")
    skipped = {"on_error": lambda *_: None} if embed is embed_images else {}
    with pytest.raises(kind) as info:
        embed(quick, failing(INPUTS[embed][:count], error), batch_size=2, **skipped)
    assert info.value is error
    assert not any(thread.name.startswith("eqx_clip") for thread in threading.enumerate())


class Lazy(os.PathLike):
    """A path that does something when a thread looks at it."""

    def __init__(self, function):
        self.function = function

    def __fspath__(self):
        self.function()
        return "missing.png"


def interrupted():
    raise KeyboardInterrupt


def interrupt_the_caller():
    _thread.interrupt_main()  # as Ctrl-C does
    time.sleep(0.05)


@pytest.fixture
def interruptible():
    """Where a shell has started the tests in the background, an interruption would be ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # an interruption that meets JAX's callback of the collector is lost there
    yield
    gc.enable()
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("interrupt", [interrupted, interrupt_the_caller])
def test_an_interruption_ends_the_work_and_leaves_no_thread(quick, interruptible, interrupt):
    decoded = []
    slow = [Lazy(lambda i=i: (time.sleep(0.02), decoded.append(i))) for i in range(300)]
    images = [*some_images(5), Lazy(interrupt), *slow]
    with pytest.raises(KeyboardInterrupt):
        embed_images(quick, images, batch_size=100, on_error=lambda *_: None)
    assert not any(thread.name.startswith("eqx_clip") for thread in threading.enumerate())
    assert len(decoded) < 150  # what waited is not done any more


def test_an_error_of_the_computation_leaves_no_thread(quick, monkeypatch):
    def encode(model, pixels):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(embedding, "_encode_images", encode)
    with pytest.raises(RuntimeError, match="out of memory"):
        embed_images(quick, some_images(20), batch_size=2)
    assert not any(thread.name.startswith("eqx_clip") for thread in threading.enumerate())


def test_images_are_decoded_in_threads(quick):
    names = []

    class Named(os.PathLike):
        def __fspath__(self):
            names.append(threading.current_thread().name)
            return "missing.png"

    embed_images(quick, [Named()] * 3, on_error=lambda *_: None)
    assert len(names) == 3 and all(name.startswith("eqx_clip") for name in names)


# Reading ahead, and progress


def counted(items, read):
    for item in items:
        read.append(item)
        yield item


def test_a_generator_of_images_is_read_two_batches_ahead(quick, monkeypatch):
    read, seen, encode = [], [], embedding._encode_images

    def noting(model, pixels):
        seen.append(len(read))
        return encode(model, pixels)

    monkeypatch.setattr(embedding, "_encode_images", noting)
    embed_images(quick, counted(some_images(30), read), batch_size=3)
    assert len(seen) == 10
    for batch, count in enumerate(seen, 1):
        assert batch * 3 <= count <= (batch + 2) * 3 + 1


def test_a_generator_of_texts_is_read_one_window_ahead(quick, monkeypatch):
    read, seen, encode = [], [], embedding._encode_texts

    def noting(model, tokens):
        seen.append(len(read))
        return encode(model, tokens)

    monkeypatch.setattr(embedding, "_encode_texts", noting)
    monkeypatch.setattr(embedding, "WINDOW", 2)
    texts = [f"text {i}" for i in range(24)]
    embed_texts(quick, counted(texts, read), batch_size=2)
    assert seen == [8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 24, 24]


@pytest.fixture
def at_once(monkeypatch):
    """The bar without its delay."""
    import tqdm

    class Hasty(tqdm.tqdm):
        def __init__(self, *args, delay, **kwargs):
            super().__init__(*args, **kwargs, mininterval=0)

    monkeypatch.setattr(tqdm, "tqdm", Hasty)


def test_progress_shows_a_bar_with_the_total_where_it_is_known(quick, at_once, capfd):
    embed_images(quick, some_images(5), batch_size=2)
    out, err = capfd.readouterr()
    assert out == "" and "5/5" in err and "image/s" in err
    embed_texts(quick, iter(["a", "b", "c"]), batch_size=2)
    out, err = capfd.readouterr()
    assert out == "" and "3text" in err


def test_no_progress_prints_nothing(quick, at_once, capfd):
    embed_images(quick, some_images(5), batch_size=2, progress=False)
    embed_texts(quick, ["a", "b"], progress=False)
    assert capfd.readouterr() == ("", "")


def test_short_work_prints_nothing(quick, capfd):
    embed_images(quick, some_images(5), batch_size=2)
    assert capfd.readouterr() == ("", "")
