"""Retrieval, validation and zero-shot accuracy: what they compute, and mistakes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bitwise_equal, tiny
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

import eqx_clip
from eqx_clip import sharding, train
from eqx_clip.data import batches, open_classes
from eqx_clip.inference import embed as embedding
from eqx_clip.train.evaluate.retrieval import _ranks
from eqx_clip.train.evaluate.validate import _sigmoid_loss


@pytest.fixture(scope="module")
def model():
    return tiny()


@eqx.filter_jit
def eval_step(model, batch):
    images = model.preprocess.normalize(jnp.asarray(batch["image"]))
    return jax.vmap(model.encode_image)(images), jax.vmap(model.encode_text)(batch["tokens"])


def unit_features(count, seed=0):
    features = np.random.default_rng(seed).standard_normal((2, count, 16), dtype=np.float32)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def test_perfect_features_find_their_own():
    features = unit_features(30)[0]
    metrics = train.retrieval_metrics(features, features)
    for direction in ("image_to_text", "text_to_image"):
        assert [metrics[f"{direction}_R@{k}"] for k in (1, 5, 10)] == [1, 1, 1]
        assert metrics[f"{direction}_mean_rank"] == metrics[f"{direction}_median_rank"] == 1
    assert len(metrics) == 10 and all(type(value) is float for value in metrics.values())


def test_any_text_of_an_image_finds_it_and_every_text_its_image():
    generator = np.random.default_rng(0)
    groups = generator.permutation(np.repeat(np.arange(12), 5))
    images, texts = unit_features(12)[0], unit_features(60)[1]
    texts = texts + 0.3 * images[groups]
    found = train.retrieval_metrics(images, texts, groups=groups, chunk_size=7)
    cosines = images.astype(np.float64) @ texts.T
    own = groups == np.arange(12)[:, None]
    best = np.where(own, cosines, -np.inf).max(1, keepdims=True)
    by_image = np.sum(cosines > best, 1)
    by_text = np.sum(cosines > cosines[groups, np.arange(60)], 0)
    for name, ranks in (("image_to_text", by_image), ("text_to_image", by_text)):
        for k in (1, 5, 10):
            assert found[f"{name}_R@{k}"] == pytest.approx(np.mean(ranks < k))
        assert found[f"{name}_mean_rank"] == pytest.approx(ranks.mean() + 1)
    assert (found["num_images"], found["num_texts"]) == (12, 60)


def test_perfect_features_of_five_texts_an_image_have_full_recall():
    images, groups = unit_features(20)[0], np.repeat(np.arange(20), 5)
    found = train.retrieval_metrics(images, images[groups], groups=groups)
    assert found["image_to_text_R@1"] == found["text_to_image_R@1"] == 1


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 1], "one for each of the 3 texts"),
        ([0.0, 1.0, 1.0], "must be integers"),
        ([0, 0, 0], "each of the 2 images"),
        ([0, 1, 2], "each of the 2 images"),
        ([-1, 0, 1], "each of the 2 images"),
    ],
)
def test_groups_that_are_no_images_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        train.retrieval_metrics(np.ones((2, 4)), np.ones((3, 4)), groups=np.array(groups))


def test_equal_features_rank_by_index_and_are_no_success():
    features = np.ones((40, 4), np.float32) / 2
    metrics = train.retrieval_metrics(features, features, chunk_size=7)
    assert metrics["image_to_text_R@1"] == 1 / 40 and metrics["image_to_text_R@10"] == 0.25
    assert metrics["text_to_image_mean_rank"] == 20.5
    assert metrics["text_to_image_median_rank"] == 20


def test_the_sigmoid_loss_is_that_of_training(model):
    bias, rng = jnp.array(-3.0), np.random.default_rng(0)
    biased = eqx.tree_at(lambda m: m.logit_bias, model, bias, is_leaf=lambda leaf: leaf is None)
    size = model.preprocess.height, model.preprocess.width
    parts = [
        {
            "image": rng.integers(256, size=(rows, 3, *size), dtype=np.uint8),
            "tokens": model.tokenize([f"text {i}" for i in range(rows)]),
        }
        for rows in (4, 4, 3)
    ]

    def loss(model, **options):
        options = {"batch_size": 4, **options}
        return train.validate(eval_step, model, parts, **options)["loss"]

    scale = jnp.exp(model.logit_scale)
    losses = [eqx_clip.siglip_loss(*eval_step(model, part), scale, bias) for part in parts]
    expected = pytest.approx(np.average(losses, weights=[4, 4, 3]), rel=1e-5)
    for size in (1, 3, 100):
        assert loss(biased, chunk_size=size) == expected
    assert loss(biased, loss="siglip") == expected
    assert loss(biased, loss="clip") == loss(model) != expected
    features, level = unit_features(5), np.array(-3, np.float32)
    with jax.transfer_guard("disallow"), jax.numpy_dtype_promotion("strict"):
        assert _sigmoid_loss(tuple(features), 10.0, level, 2) > 0
    with pytest.raises(ValueError, match="needs a model with a bias"):
        loss(model, loss="siglip")
    with pytest.raises(ValueError, match="one pair is always 0"):
        loss(model, batch_size=1)


@pytest.mark.parametrize("chunk_size", [1, 7, 33, 34, 1000])
def test_chunks_change_nothing(chunk_size):
    image, text = unit_features(33)
    cosines = image.astype(np.float64) @ text.T.astype(np.float64)
    found = np.sum(cosines > np.diag(cosines)[:, None], axis=1)
    metrics = train.retrieval_metrics(jnp.asarray(image), text, chunk_size=chunk_size)
    assert metrics["image_to_text_mean_rank"] == pytest.approx(found.mean() + 1)
    assert metrics["image_to_text_R@5"] == np.mean(found < 5)


def test_half_precision_is_compared_in_float32():
    image, text = unit_features(100)
    half = [jnp.asarray(features, jnp.bfloat16) for features in (image, text)]
    again = [np.asarray(features, np.float32) for features in half]
    assert train.retrieval_metrics(*half) == train.retrieval_metrics(*again)


def test_double_precision_needs_no_64_bits():
    """And warns of nothing, which would be an error here."""
    image, text = unit_features(30)
    found = train.retrieval_metrics(image.astype(np.float64), text.astype(np.float64))
    assert found == train.retrieval_metrics(image, text)


def test_memory_is_that_of_a_chunk():
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((64, 512), "f4"), ((100_000, 512), "f4"), ((64,), "i4"))
    ]
    memory = _ranks.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2.1 * 64 * 100_000 * 4


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (np.ones((3, 4)), np.ones((4, 4)), r"one shape.*got \(3, 4\) and \(4, 4\)"),
        (np.ones((0, 4)), np.ones((0, 4)), "at least one example"),
        (np.ones(4), np.ones(4), r"got \(4,\)"),
        (np.ones((3, 4)), np.array([[1.0] * 4, [np.nan] * 4, [np.inf] * 4]), "text.*2 of 3.*row 1"),
    ],
    ids=["shapes", "empty", "axes", "nan"],
)
def test_features_that_cannot_be_ranked_are_refused(image, text, message):
    with pytest.raises(ValueError, match=message):
        train.retrieval_metrics(image, text)
    with pytest.raises(ValueError, match="`chunk_size`"):
        train.retrieval_metrics(np.ones((3, 4)), np.ones((3, 4)), chunk_size=0)


def random_batches(model, sizes, seed=0):
    rng = np.random.default_rng(seed)
    size = (model.preprocess.height, model.preprocess.width)
    return [
        {
            "image": rng.integers(0, 256, (count, 3, *size), dtype=np.uint8),
            "tokens": model.tokenize([f"{rng.integers(1000)}" for _ in range(count)]).reshape(
                count, 13
            ),
            "index": np.arange(count),
        }
        for count in sizes
    ]


def test_validation_is_the_weighted_mean_over_batches_and_retrieval_among_all(model):
    parts = random_batches(model, [4, 4, 3])
    features = [eval_step(model, part) for part in parts]
    losses = [eqx_clip.clip_loss(*pair, jnp.exp(model.logit_scale)) for pair in features]
    metrics = train.validate(eval_step, model, parts, batch_size=4, chunk_size=3)
    assert metrics.pop("loss") == pytest.approx(np.average(losses, weights=[4, 4, 3]), abs=1e-5)
    assert metrics.pop("num_samples") == 11
    together = [np.concatenate(arrays) for arrays in zip(*features, strict=True)]
    assert metrics == train.retrieval_metrics(*together)


def test_validation_takes_each_image_once_where_examples_share_it(model):
    (part,) = random_batches(model, [6])
    part["image"][[2, 4]] = part["image"][0]
    groups = np.array([7, 3, 7, 5, 7, 1])
    metrics = train.validate(eval_step, model, [part], batch_size=6, groups=groups)
    assert (metrics["num_images"], metrics["num_texts"], metrics["num_samples"]) == (4, 6, 6)
    images, texts = map(np.asarray, eval_step(model, part))
    expected = train.retrieval_metrics(
        images[[5, 1, 3, 0]], texts, groups=np.array([3, 1, 3, 2, 3, 0])
    )
    assert {name: metrics[name] for name in expected} == expected
    with pytest.raises(ValueError, match="the image of each of the 6 examples"):
        train.validate(eval_step, model, [part], batch_size=6, groups=groups[:5])


def test_one_shape_is_compiled_and_parts_may_be_empty(model):
    shapes = []

    def traced(model, batch):
        shapes.append((batch["image"].shape, batch["tokens"].shape))
        return eval_step(model, batch)

    parts = random_batches(model, [4, 2, 0])
    metrics = train.validate(traced, model, iter(parts), batch_size=4)
    assert set(shapes) == {((4, 3, 48, 32), (4, 13))}
    assert metrics == train.validate(eval_step, model, parts[:2], batch_size=4)


def test_features_on_a_mesh_are_those_of_one_device(model):
    count = len(jax.devices())
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = jax.device_put(model, NamedSharding(mesh, PartitionSpec()))

    def sharded_step(model, batch):
        return eval_step(model, jax.device_put(batch, rows))

    parts = random_batches(model, [2 * count, 3])
    ours = train.validate(sharded_step, everywhere, parts, batch_size=2 * count)
    assert ours == pytest.approx(train.validate(eval_step, model, parts, batch_size=2 * count))


def test_the_loss_in_chunks_is_that_of_the_whole_batch(model):
    parts = random_batches(model, [10])
    losses = {
        train.validate(eval_step, model, parts, batch_size=10, chunk_size=size)["loss"]
        for size in (3, 10)
    }
    assert max(losses) - min(losses) < 1e-6


def test_features_in_half_precision_are_compared_in_float32(model):
    def half_step(model, batch):
        image, text = eval_step(model, batch)
        return image.astype(jnp.bfloat16), text.astype(jnp.bfloat16)

    def rounded_step(model, batch):
        image, text = half_step(model, batch)
        return np.asarray(image, np.float32), np.asarray(text, np.float32)

    parts = random_batches(model, [4, 2])
    ours, rounded = (
        train.validate(step, model, parts, batch_size=4) for step in (half_step, rounded_step)
    )
    assert ours == rounded


def test_mistakes_in_validation_are_told(model):
    parts = random_batches(model, [4])
    for nothing in ([], random_batches(model, [0])):
        with pytest.raises(ValueError, match="gave no example"):
            train.validate(eval_step, model, nothing, batch_size=4)
    with pytest.raises(ValueError, match="4 rows on this process; expected at most 2"):
        train.validate(eval_step, model, parts, batch_size=2)
    with pytest.raises(ValueError, match=r"has \(4, 24\); expected its 8 rows"):
        train.validate(lambda *_: eval_step(model, parts[0]), model, parts, batch_size=8)
    broken = eqx.tree_at(lambda m: m.text.ln_final.weight, model, jnp.full(36, jnp.nan))
    with pytest.raises(ValueError, match="text features of 4 of 4 examples are not finite"):
        train.validate(eval_step, broken, parts, batch_size=4)


COLOURS = {"dark_red": (120, 0, 0), "green": (0, 200, 0), "violet": (150, 0, 200)}


@pytest.fixture
def classes(tmp_path):
    """Three classes of four pictures, one of them below another folder."""
    for name, colour in COLOURS.items():
        for i in range(4):
            path = tmp_path / "set" / name / ("more/x.png" if i == 3 else f"{i}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + i, 50), colour).save(path)
    (tmp_path / "set" / "green" / "notes.txt").write_text("not an image")
    (tmp_path / "set" / ".cache").mkdir()
    return tmp_path / "set"


def image_means(model, classes):
    """A classifier that is right: each class's mean feature."""
    features = eqx_clip.embed_images(model, classes.images, progress=False)
    return np.stack([features[classes.labels == label].mean(0) for label in range(3)])


def test_accuracy_is_that_of_the_nearest_class(model, classes):
    found = open_classes(classes)
    right = image_means(model, found)
    accuracy = train.zero_shot_accuracy(model, found.images, found.labels, right, progress=False)
    assert accuracy == {"top1": 1.0}
    swapped = right[[1, 0, 2]]
    accuracy = train.zero_shot_accuracy(
        model, found.images, found.labels, swapped, batch_size=5, progress=False
    )
    assert accuracy == {"top1": 4 / 12}


def test_accuracy_of_a_model_on_a_mesh_is_that_of_one_device(model, classes, monkeypatch):
    found, mesh = open_classes(classes), sharding.make_mesh(2, 2, devices=jax.devices()[:4])
    right, batches = image_means(model, found), []
    encode = embedding._encode_images
    monkeypatch.setattr(
        embedding, "_encode_images", lambda *given: (batches.append(given[1]), encode(*given))[1]
    )
    accuracy = train.zero_shot_accuracy(
        sharding.place(model, mesh), found.images, found.labels, right, batch_size=5, progress=False
    )
    assert accuracy == {"top1": 1.0}
    assert {batch.sharding.num_devices for batch in batches} == {4}
    assert {batch.addressable_data(0).shape[0] for batch in batches} == {2}


def test_top5_is_told_where_there_are_more_than_five_classes(model, classes):
    found = open_classes(classes)
    right = image_means(model, found)
    others = -np.repeat(right.mean(0, keepdims=True), 4, axis=0)
    equal = np.concatenate([np.repeat(right[:1], 4, axis=0), right, others])
    labels = found.labels + 4
    accuracy = train.zero_shot_accuracy(model, found.images, labels, equal, progress=False)
    assert accuracy["top1"] == 8 / 12  # four others equal the first class, and come before it
    assert accuracy["top5"] == 1.0


def test_a_folder_of_classes_ends_as_an_accuracy(model, classes):
    found = open_classes(classes, class_names=["red", "green", "purple"])
    classifier = eqx_clip.zero_shot_classifier(model, found.class_names, ["a photo of {}."])
    accuracy = train.zero_shot_accuracy(
        model, found.images, found.labels, classifier, progress=False
    )
    assert set(accuracy) == {"top1"} and accuracy["top1"] * 12 in range(13)


def test_an_image_that_cannot_be_read_is_named(model, classes):
    (classes / "green" / "1.jpg").write_bytes(b"<html>")
    found = open_classes(classes)
    with pytest.raises(ValueError, match=r"Image 5 cannot be read.*1\.jpg"):
        train.zero_shot_accuracy(model, found.images, found.labels, np.ones((3, 24)))


@pytest.mark.parametrize(
    ("images", "labels", "classifier", "message"),
    [
        (["a.jpg"], [0, 1], np.ones((3, 24)), r"1 images and labels int64 \(2,\)"),
        ([], [], np.ones((3, 24)), "0 images"),
        (["a.jpg"], [0.5], np.ones((3, 24)), "labels float64"),
        (["a.jpg"], [3], np.ones((3, 24)), "from 0 to 2; got 3 to 3"),
        (["a.jpg"], [0], np.ones((24, 3)), r"\(classes, 24\).*got \(24, 3\)"),
    ],
)
def test_labels_and_classifiers_that_do_not_fit_are_told(
    model, images, labels, classifier, message
):
    with pytest.raises(ValueError, match=message):
        train.zero_shot_accuracy(model, images, np.array(labels), classifier)


def test_a_model_on_a_mesh_goes_to_one_device(model):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    by_rows = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    spread = jax.tree.map(
        lambda leaf: jax.device_put(
            leaf,
            by_rows
            if leaf.ndim > 1 and leaf.shape[1] % 4 == 0
            else NamedSharding(mesh, PartitionSpec()),
        ),
        model,
    )
    here = train.on_one_device(spread)
    assert {leaf.devices().pop() for leaf in jax.tree.leaves(here)} == {jax.devices()[0]}
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(here))
    assert bitwise_equal(here, model)


def test_validation_of_batches_from_a_data_set(model, tmp_path):
    source = [
        {"image": np.full((9, 8, 3), 20 * i, np.uint8), "text": f"number {i}"} for i in range(7)
    ]
    feed = batches(
        source,
        batch_size=4,
        preprocess=model.preprocess,
        tokenizer=model.tokenize,
        shuffle=False,
        epochs=1,
        drop_remainder=False,
    )
    assert train.validate(eval_step, model, feed, batch_size=4)["num_samples"] == 7


def test_two_processes_get_the_numbers_of_one(model, classes):
    """Batches of four: of the last the second process has one row, or none."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("evaluate_in_two.py")
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(port), str(i), str(classes)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        results = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], results
    ours, theirs = (json.loads(out.splitlines()[-1]) for out, _ in results)
    assert ours == theirs
    for last in (3, 1):
        expected = train.validate(eval_step, model, random_batches(model, [4, last]), batch_size=4)
        assert ours[str(last)] == pytest.approx(expected, abs=1e-5)
    found = open_classes(classes)
    classifier = image_means(model, found)[[0, 2, 1]]
    accuracy = train.zero_shot_accuracy(model, found.images, found.labels, classifier)
    assert ours["accuracy"] == accuracy == {"top1": 4 / 12}
