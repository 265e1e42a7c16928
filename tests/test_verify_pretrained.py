"""`benchmarks/verify_pretrained.py`, against stand-ins for the hub and for CIFAR-10's server."""

import dataclasses
import hashlib
import io
import json
import tarfile
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import verify_pretrained
from helpers import random_model
from PIL import Image

import eqx_clip
from eqx_clip.zoo import pretrained as registry


NANO, TAG = "vit-nano-patch32", "tag-a"
WEIGHTS = "open_clip_model.safetensors"
ROW = registry.Pretrained(
    model=NANO,
    tag=TAG,
    open_clip=("nano", "tag_a"),
    repos=("org/nano",),
    preprocess=eqx_clip.Preprocess(image_size=64),
)
OTHER = dataclasses.replace(ROW, tag="tag-b", open_clip=("nano", "tag_b"), repos=("org/other",))
HALF = eqx_clip.Preprocess(image_size=64, mean=(0.5,) * 3, std=(0.5,) * 3)
SMALL = eqx_clip.Preprocess(image_size=32)
CLASSES, COUNT = verify_pretrained.CLASSES, 50


@pytest.fixture(scope="module")
def questions():
    """The picture, and the images and labels of a small CIFAR-10: patches of random colours."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (COUNT + 1, 4, 4, 3), np.uint8)
    picture, *images = colours.repeat(8, axis=1).repeat(8, axis=2)
    return picture, np.stack(images), np.arange(COUNT) % len(CLASSES)


def taught(config, questions):
    """A random model, whose last matrix is solved for, so that it answers all questions rightly."""
    model = random_model(config)
    picture, images, labels = questions
    pixels = np.stack([model.preprocess(image) for image in (picture, *images)])
    pooled = eqx.filter_jit(jax.vmap(lambda image: model.image.features(image)[0]))(pixels)
    texts = eqx_clip.embed_texts(model, verify_pretrained.PICTURE_TEXTS)
    classes = eqx_clip.zero_shot_classifier(model, CLASSES, verify_pretrained.TEMPLATES)
    # Towards the right text and away from the others.
    right = [2 * texts[0] - texts[1] - texts[2], *(classes - classes.mean(0))[labels]]
    right = np.stack([vector / np.linalg.norm(vector) for vector in np.asarray(right, np.float64)])
    right[0] *= 100
    proj = np.linalg.lstsq(np.asarray(pooled, np.float64), right, rcond=None)[0]
    model = eqx.tree_at(lambda model: model.image.proj, model, jnp.asarray(proj, jnp.float32))
    return eqx.tree_at(lambda model: model.logit_scale, model, jnp.asarray(7.0))


@pytest.fixture(scope="module")
def weights(questions, tmp_path_factory):
    """Folders of weights: right ones, and one of another model."""
    folder = tmp_path_factory.mktemp("weights")
    with jax.default_matmul_precision("highest"):  # as in the script, so that it compiles less
        eqx_clip.save(taught(ROW.config, questions), folder / "right")
    eqx_clip.save(random_model(ROW.config, seed=1), folder / "wrong")
    return folder


def tarball(images, labels, names=CLASSES):
    """CIFAR-10's binary version, the test set alone."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    files = {
        "batches.meta.txt": ("\n".join(names) + "\n\n").encode(),
        "test_batch.bin": np.concatenate([labels[:, None], planes], 1).astype(np.uint8).tobytes(),
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def png(picture):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def serve(hub, monkeypatch):
    """Puts a picture and CIFAR-10 on the server, as what the script expects."""

    def serve(picture, images, labels, **options):
        data = tarball(images, labels, **options)
        hub.repos["data"] = {"main": {"CLIP.png": png(picture), "cifar.tar.gz": data}}
        base = f"{hub.address}/data/resolve/main"
        monkeypatch.setattr(verify_pretrained, "PICTURE_URL", f"{base}/CLIP.png")
        monkeypatch.setattr(verify_pretrained, "CIFAR10_URL", f"{base}/cifar.tar.gz")
        monkeypatch.setattr(verify_pretrained, "CIFAR10_SHA256", hashlib.sha256(data).hexdigest())

    return serve


@pytest.fixture
def register(monkeypatch):
    """Makes these rows the registry, with a published accuracy."""

    def register(*rows, published=1.0):
        monkeypatch.setattr(registry, "PRETRAINED", rows)
        numbers = {(row.model, row.tag): published for row in rows}
        monkeypatch.setattr(verify_pretrained, "PUBLISHED", numbers)

    return register


@pytest.fixture
def world(hub, serve, register, questions, weights):
    """One registered pair, with all that there is to check it."""
    hub.add("org/nano", weights / "right")
    serve(*questions)
    register(ROW)
    return hub


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the script: exit code, lines of the table, results, stderr."""

    def run(*arguments):
        path = tmp_path / "results.json"
        path.unlink(missing_ok=True)
        command = ["--data", tmp_path / "data", "--json", path, *arguments]
        try:
            code = verify_pretrained.main([str(argument) for argument in command])
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        results = json.loads(path.read_text()) if path.is_file() else None
        return code, out.splitlines(), results, err

    return run


def test_right_weights_pass(world, run):
    code, lines, (result,), _ = run()
    assert code == 0, lines
    assert lines[0].split() == ["model", "tag", "diagram", "CIFAR-10", "published", "allowed"]
    assert lines[1].split() == [NANO, TAG, "100.00%", "100.00%", "100.00%", "±0.50", "ok"]
    assert lines[2] == "1 of 1 as published"
    assert result["failures"] == [] and result["images"] == COUNT
    assert result["accuracy"] == 1 and result["published"] == 1
    assert result["allowed"] == pytest.approx(0.005)


def test_what_was_downloaded_is_not_downloaded_again(world, run):
    run()
    world.log.clear()
    assert run()[0] == 0
    assert not any(entry.startswith("GET") for entry in world.log)


def test_local_files_are_taken(world, run, questions, tmp_path):
    (tmp_path / "picture.png").write_bytes(world.repos["data"]["main"]["CLIP.png"])
    (tmp_path / "images.tgz").write_bytes(world.repos["data"]["main"]["cifar.tar.gz"])
    del world.repos["data"]
    local = ("--picture", tmp_path / "picture.png", "--cifar10", tmp_path / "images.tgz")
    assert run(*local, "--cache-dir", tmp_path / "weights")[0] == 0
    assert (tmp_path / "weights" / "models--org--nano").is_dir()


# What must fail


def test_a_published_number_far_away_fails(world, register, run):
    register(ROW, published=0.93)
    code, lines, (result,), _ = run()
    assert code == 1 and "FAILED: CIFAR-10 is +7.00 points from the published" in lines[1]
    assert result["accuracy"] == 1 and result["published"] == 0.93
    assert lines[-1] == "0 of 1 as published"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"preprocess": HALF}, "points from the published"),
        ({"quick_gelu": True}, "points from the published"),
        ({"preprocess": SMALL}, "points from the published"),
    ],
    ids=["statistics", "activation", "size"],
)
def test_a_registry_that_is_wrong_fails(world, register, run, wrong, words):
    register(dataclasses.replace(ROW, **wrong))
    code, lines, _, _ = run()
    assert code == 1 and words in lines[1]


def test_weights_of_another_model_fail(world, weights, run):
    world.add("org/nano", weights / "wrong")
    code, _, (result,), _ = run()
    assert code == 1 and any("from the published accuracy" in text for text in result["failures"])
    assert result["accuracy"] < 0.5


def test_another_picture_fails(world, serve, run, questions):
    picture, images, labels = questions
    serve(255 - picture, images, labels)
    code, _, (result,), _ = run()
    assert code == 1 and result["accuracy"] == 1
    assert result["diagram"] < 0.5
    assert result["failures"] in (["The picture is 'a dog'."], ["The picture is 'a cat'."])


def test_the_pair_that_open_clip_tests_has_to_pass_its_test(world, run, monkeypatch):
    monkeypatch.setattr(verify_pretrained, "TESTED_BY_OPEN_CLIP", (NANO, TAG))
    assert run()[0] == 0
    monkeypatch.setattr(verify_pretrained, "PICTURE_TEXTS", ("a diagram", "a diagram!", "a cat"))
    code, _, (result,), _ = run()
    assert code == 1 and any("expects [1, 0, 0]; got" in text for text in result["failures"])


def test_truncated_weights_fail(world, run):
    files = world.repos["org/nano"]["main"]
    files[WEIGHTS] = files[WEIGHTS][: len(files[WEIGHTS]) // 2]
    code, lines, (result,), _ = run()
    assert code == 1 and result["accuracy"] is None
    assert "FAILED: ValueError: " in lines[1] and "fetch it again" in lines[1]


def test_weights_that_break_off_fail(world, run, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between huggingface-hub's tries
    world.breaks_off = {WEIGHTS}
    code, lines, (result,), _ = run()
    assert code == 1 and result["accuracy"] is None
    assert "FAILED: " in lines[1] and lines[-1] == "0 of 1 as published"


def test_a_row_that_fails_does_not_stop_the_others(world, register, run):
    register(OTHER, ROW)
    code, lines, results, _ = run()
    assert code == 1 and lines[-1] == "1 of 2 as published"
    assert "tag-b" in lines[1] and "FAILED: WeightsNotFoundError: Found none of:" in lines[1]
    assert lines[2].split()[1] == TAG and lines[2].endswith(" ok")
    assert [bool(result["failures"]) for result in results] == [True, False]


# Data that nothing can be checked with


def test_truncated_images_are_refused_and_not_kept(world, run, tmp_path):
    files = world.repos["data"]["main"]
    whole = files["cifar.tar.gz"]
    files["cifar.tar.gz"] = whole[:-100]
    code, lines, results, err = run()
    assert code == 2 and lines == [] and results is None
    assert "SHA-256" in err and "Traceback" not in err
    files["cifar.tar.gz"] = whole
    assert run()[0] == 0


def test_a_download_that_breaks_off_is_refused(world, run, monkeypatch):
    world.breaks_off = {"cifar.tar.gz"}
    code, _, _, err = run()
    assert code == 2 and "cifar.tar.gz: it broke off after" in err
    world.breaks_off = set()
    assert run()[0] == 0


def test_without_a_network_it_says_which_files_to_bring(world, run):
    del world.repos["data"]["main"]["CLIP.png"]
    code, _, _, err = run()
    assert code == 2 and "CLIP.png: HTTP Error 404" in err and "`--picture`" in err


def test_local_images_are_checked(world, run, tmp_path):
    (tmp_path / "images.tgz").write_bytes(b"something else")
    code, _, _, err = run("--cifar10", tmp_path / "images.tgz")
    assert code == 2 and "images.tgz is damaged or another file" in err


def test_classes_of_another_order_are_refused(world, serve, run, questions):
    serve(*questions, names=CLASSES[::-1])
    code, _, _, err = run()
    assert code == 2 and "has the classes ('truck'," in err


# Choosing


def test_names_and_tags_choose_rows(register):
    def pairs(*arguments):
        return [(row.model, row.tag) for row in verify_pretrained.chosen(*arguments)]

    published = verify_pretrained.PUBLISHED
    assert pairs([], []) == [pair for pair in eqx_clip.list_pretrained() if pair in published]
    assert pairs(["ViT-B-32-quickgelu", "vit-base-patch32"], ["laion400m_e32", "laion2b-e16"]) == [
        ("vit-base-patch32", "laion400m-e32"),
        ("vit-base-patch32", "laion2b-e16"),
    ]
    assert pairs([], ["laion2b-s32b-b82k"]) == [("vit-large-patch14", "laion2b-s32b-b82k")]
    with pytest.raises(ValueError, match="Did you mean 'vit-base-patch32'"):
        pairs(["vit-bas-patch32"], [])
    with pytest.raises(ValueError, match="No such weights: laion2b-e17"):
        pairs(["vit-base-patch32"], ["laion2b-e16", "laion2b-e17"])


def test_a_limit_takes_the_first_images_and_allows_for_the_sample(world, register, run):
    register(ROW, published=0.95)
    code, _, (result,), _ = run("--limit", 20)
    assert code == 0 and result["images"] == 20 and result["accuracy"] == 1
    assert result["allowed"] == pytest.approx(0.005 + 4 * (0.95 * 0.05 / 20 * 30 / 49) ** 0.5)
    assert run("--limit", 0)[0] == 2


@pytest.mark.parametrize(
    "arguments",
    [("--batch-size", 0), ("--picture", "missing.png"), ("--json", "no/where.json")],
    ids=lambda arguments: arguments[0],
)
def test_mistakes_are_told_before_weights_are_fetched(world, register, run, monkeypatch, arguments):
    register(ROW, published=0.95)
    monkeypatch.setattr(verify_pretrained, "verify", None)
    assert run(*arguments)[0] == 2


def test_nearly_every_row_of_the_registry_has_a_published_number():
    published = verify_pretrained.PUBLISHED
    others = {pair for pair in eqx_clip.list_pretrained() if pair not in published}
    later = ("SigLIP2", "worldwide")  # than the table
    assert {pair for pair in others if not any(name in pair[0] for name in later)} == {
        ("ViT-SO400M-14-SigLIP-378", "webli"),
        ("ViT-SO400M-16-SigLIP-i18n-256", "webli"),
        ("vit-large-patch14", "dfn2b-s39b"),
        ("vit-huge-patch14", "metaclip-altogether"),
        ("ViT-bigG-14", "metaclip-fullcc"),
    }
    assert published.keys() <= set(eqx_clip.list_pretrained())
    assert all(0.2 < number < 1 for number in published.values())


def test_the_prompts_are_those_of_the_published_numbers():
    templates = verify_pretrained.TEMPLATES
    assert len(set(templates)) == len(templates) == 18
    assert {"a photo of a {}.", "a low contrast photo of the {}.", "a photo of the big {}."} < set(
        templates
    )
