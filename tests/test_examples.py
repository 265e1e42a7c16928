"""The examples, run as users run them, without a network."""

import csv
import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from helpers import TINY_CONVNEXT, bitwise_equal, random_model, relative_error, tiny
from PIL import Image
from sklearn.datasets import load_digits

import eqx_clip
from eqx_clip.zoo.architectures import model_config


EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A process without a network and with an empty cache, in which warnings are errors."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(cwd / "empty"),
        "XLA_FLAGS": "",  # as users have it
    }
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# One run for all that the demo promises: nearly all of its time is compilation.
def test_demo(tmp_path):
    result = run_example("demo.py", "--steps", 3, "--seed", 1, cwd=tmp_path)
    assert "Traceback" not in result.stderr, result.stderr
    folder = tmp_path / "demo"
    names = {"digits", "train.csv", "held_out.csv", "model", "demo.png"}
    assert {path.name for path in folder.iterdir()} == names

    constants = runpy.run_path(str(EXAMPLES / "demo.py"))
    check_data(folder, constants["DIGITS"])
    check_prompts(folder, result.stdout, constants["NEW_TEMPLATES"], constants["DIGITS"])
    check_model_and_picture(folder)
    check_report(result)


def check_data(folder: Path, words: tuple[str, ...]) -> None:
    """Real digits, each with its own captions, and none both in training and held out."""
    train_rows, held_out_rows = read_csv(folder / "train.csv"), read_csv(folder / "held_out.csv")
    training = {row["image_path"] for row in train_rows}
    held_out = {row["image_path"] for row in held_out_rows}
    assert len(training) == 1438 and len(held_out) == len(held_out_rows) == 359
    written = {f"digits/{path.name}" for path in (folder / "digits").iterdir()}
    assert training.isdisjoint(held_out) and training | held_out == written

    images, targets = load_digits(return_X_y=True)

    def index(row):
        return int(Path(row["image_path"]).stem)

    for row in held_out_rows:
        assert int(row["digit"]) == targets[index(row)]
        with Image.open(folder / row["image_path"]) as image:
            assert image.mode == "L" and image.size == (8, 8)
            pixels = np.asarray(image) / 255 * 16
        np.testing.assert_allclose(pixels, images[index(row)].reshape(8, 8), atol=0.04)
    for row in train_rows:
        digit = targets[index(row)]
        found = re.findall(rf"\b(?:\d|{'|'.join(words)})\b", row["caption"])
        assert found in ([str(digit)], [words[digit]])


def check_prompts(
    folder: Path, stdout: str, templates: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """The prompts are shown, and none of them is a caption of the training."""
    assert all(f"  {template}\n" in stdout for template in templates)
    captions = {row["caption"] for row in read_csv(folder / "train.csv")}
    assert captions.isdisjoint(template.format(word) for template in templates for word in words)


def check_model_and_picture(folder: Path) -> None:
    model = eqx_clip.load(folder / "model")
    assert model.preprocess.image_size == 16 and model.tokenizer.context_length == 16
    with Image.open(folder / "demo.png") as picture:
        picture.load()
        assert picture.size == (1800, 780)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def check_report(result: subprocess.CompletedProcess[str]) -> None:
    """Progress, a table, the accuracy, and that it is too low."""
    assert "3/3" in result.stderr and "loss=" in result.stderr
    table = re.findall(r"^ +image of a (\d)((?: +\d+\.\d){10})$", result.stdout, re.MULTILINE)
    assert [digit for digit, _ in table] == list("0123456789")
    for _, cells in table:
        assert sum(map(float, cells.split())) == pytest.approx(100, abs=0.6)
    found = re.search(
        r"accuracy on 359 held-out digits: (\d+\.\d)% \(chance: 10%\)\n", result.stdout
    )
    # Three steps teach nothing, and the demo says so.
    assert found and float(found[1]) < 95
    assert result.returncode == 1 and "less than the 95%" in result.stderr


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    eqx_clip.save(tiny(), folder)
    return folder


@pytest.fixture(scope="module")
def image_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Runs an example in this process, which is faster: exit code, stdout and stderr."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = None
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def compile_quickly():
    """Where nearly all of the time is compilation: programs that are slower, but soon there."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def zero_shot(run_here):
    return lambda *arguments: run_here("zero_shot.py", *arguments)


def test_zero_shot_sorts_texts_by_probability(zero_shot, model_folder, image_path):
    texts = ["a diagram", "a dog", "100% a cat", "Größe"]
    code, out, err = zero_shot(image_path, *texts, "--model", model_folder)
    assert code is None and err == ""
    lines = [re.fullmatch(r" *(\d+\.\d)% (#*) +(.+)", line) for line in out.splitlines()]
    shown = {line[3]: float(line[1]) for line in lines if line}
    assert sorted(shown) == sorted(texts) and len(lines) == len(texts)
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    assert sum(shown.values()) == pytest.approx(100, abs=0.21)

    per_image, _ = eqx_clip.CLIPInference(model_folder)(image_path, texts)
    for text, probability in zip(texts, np.asarray(per_image[0]), strict=True):
        assert shown[text] == pytest.approx(100 * probability, abs=0.051)
    for line in lines:
        assert line and len(line[2]) == pytest.approx(0.3 * float(line[1]), abs=0.52)


def test_zero_shot_lists_what_can_be_loaded(zero_shot):
    code, out, _ = zero_shot("--list")
    assert code is None
    pairs = tuple(tuple(line.split()) for line in out.splitlines())
    assert pairs == eqx_clip.list_pretrained()


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        ("missing.png", (), "No such file or directory: 'missing.png'"),
        (__file__, (), "is not an image that Pillow can identify"),
        (None, ("--model", "vit-bas-patch32"), "'vit-base-patch32'"),
        (None, ("--model", "no/such/folder"), "no registered model"),
        (None, ("--pretrained", "laion2b-s34b-b78k"), "'laion2b-s34b-b79k'"),
    ],
    ids=["missing image", "not an image", "unknown model", "missing folder", "unknown tag"],
)
def test_zero_shot_explains_mistakes_in_one_line(zero_shot, image_path, image, options, expected):
    code, out, err = zero_shot(image or image_path, "a dog", *options)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and expected in err and err.count("\n") == 1


def test_zero_shot_needs_an_image_and_a_text(zero_shot, image_path):
    for arguments in ([], [image_path]):
        code, _, err = zero_shot(*arguments)
        assert code == 2 and err.endswith("an image and at least one text are needed\n")


def test_zero_shot_without_a_network_says_what_to_do(image_path, tmp_path):
    result = run_example("zero_shot.py", image_path, "a dog", cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: Found none of:")
    assert "Connect once" in result.stderr and "Traceback" not in result.stderr


# examples/compose_towers.py


@pytest.fixture(scope="module")
def compose():
    """The module: its parts are functions to take."""
    spec = spec_from_file_location("compose_towers", EXAMPLES / "compose_towers.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nano():
    return random_model(model_config("vit-nano-patch32"))


def noisy(tree, seed: int = 0):
    """`tree` with some noise on each array."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.05 * rng.standard_normal(x.shape, np.float32), tree)


def adapted_model(compose, model):
    """With LoRA in which no matrix is zero, as after training."""
    adapted = compose.add_lora(model, 3, key=jax.random.key(0))

    def matrices(model):
        attention = model.image.stack.block.attn
        return attention.qkv.lora_b, attention.out.lora_b

    return eqx.tree_at(matrices, adapted, noisy(matrices(adapted)))


def test_compose_towers_runs_all_parts(compile_quickly, run_here, nano, monkeypatch, tmp_path):
    def create(name, *, key):
        assert name == "vit-nano-patch32"
        return nano  # `create` compiles for seconds

    monkeypatch.setattr(eqx_clip, "create", create)
    code, out, err = run_here("compose_towers.py", "--folder", tmp_path / "merged")
    assert code is None and err == ""
    parts = dict(line.split(": ", 1) for line in out.splitlines())
    assert list(parts) == ["classifier", "LoRA", "merged", "LiT", "WiSE-FT"]
    assert parts["classifier"].startswith("100%")
    for part in ("LoRA", "LiT"):
        before, after = map(int, re.findall(r"(\d+)%", parts[part]))
        assert before < after
    assert parts["LiT"].endswith("the image tower equal to the bit")
    assert float(parts["merged"].rsplit(" ", 1)[1]) < 1e-5

    saved = eqx_clip.load(tmp_path / "merged")
    assert bitwise_equal(saved.text, nano.text)
    trained = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(saved.image), jax.tree.leaves(nano.image), strict=True)
    ]
    assert sum(trained) == 2  # the weights of `qkv` and of `out`


def test_compose_towers_merges_lora_without_changing_features(compose, nano):
    adapted = adapted_model(compose, nano)
    merged = compose.merge_lora(adapted)
    assert jax.tree.structure(merged) == jax.tree.structure(nano)
    images = compose.make_data(nano).images
    theirs, ours = (compose.encode_images(model, images) for model in (adapted, merged))
    np.testing.assert_allclose(theirs, ours, atol=1e-5, rtol=0)
    assert np.abs(ours - compose.encode_images(nano, images)).max() > 1e-3


def test_openclip_loads_the_lora_that_compose_towers_merges(compose, nano, tmp_path, capsys):
    if find_spec("open_clip") is None:
        pytest.skip("open_clip_torch, installed with Python 3.11, is missing")
    from oracle import open_clip, torch

    data = compose.make_data(nano)
    merged = compose.merge_and_save(adapted_model(compose, nano), data, tmp_path)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).eval()
    with torch.no_grad():
        images = theirs.encode_image(torch.tensor(data.images), normalize=True).numpy()
        texts = theirs.encode_text(torch.tensor(data.tokens).long(), normalize=True).numpy()
    assert relative_error(compose.encode_images(merged, data.images), images) < 2e-5
    assert relative_error(compose.encode_texts(merged, data.tokens), texts) < 2e-5


def test_compose_towers_fits_only_what_it_is_told(compose, nano):
    def loss(model):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(model))

    trains = compose.only(nano, lambda model: (model.text, model.logit_scale))
    tuned = compose.fit(nano, trains, loss)
    assert bitwise_equal(tuned.image, nano.image)
    assert tuned.logit_scale != nano.logit_scale
    for before, after in zip(jax.tree.leaves(nano.text), jax.tree.leaves(tuned.text), strict=True):
        assert not np.array_equal(before, after)


def test_compose_towers_averages_checkpoints(compose):
    a, b = {"weight": np.array([1.0, 4.0])}, {"weight": np.array([3.0, 0.0])}
    for alpha, expected in ((0.0, [1.0, 4.0]), (0.25, [1.5, 3.0]), (1.0, [3.0, 0.0])):
        np.testing.assert_array_equal(compose.average(a, b, alpha)["weight"], expected)


def test_compose_towers_says_which_towers_it_is_for(run_here, tmp_path):
    eqx_clip.save(tiny(TINY_CONVNEXT), tmp_path)
    code, out, err = run_here("compose_towers.py", "--model", tmp_path)
    assert code == 2 and out == ""
    assert err.startswith("error: This example is for vision transformers") and "ConvNeXt" in err


# examples/linear_probe.py


COLOURS = {"blue": (40, 60, 200), "red": (200, 50, 40), "white": (220, 220, 220)}


def write_classes(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """So many noisy images of each class, a colour, some of them in a folder further down."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name / "more").mkdir(parents=True)
        for i in range(count):
            pixels = np.array(COLOURS[name]) + rng.integers(-30, 31, (48, 32, 3))
            path = folder / name / ("more" if i % 3 == 0 else ".") / f"{i}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def test_linear_probe_learns_classes_from_folders(
    compile_quickly, run_here, model_folder, tmp_path
):
    train = write_classes(tmp_path / "train", {"blue": 7, "red": 5, "white": 6})
    test = write_classes(tmp_path / "test", {"blue": 3, "red": 2, "white": 1}, seed=1)
    (train / "red" / "broken.png").write_bytes(b"no image")
    (train / "red" / "notes.txt").write_text("no image either, and not meant to be one")
    (train / ".cache").mkdir()
    code, out, err = run_here(
        "linear_probe.py", "--train", train, "--test", test, "--model", model_folder
    )
    assert code is None, err
    assert "19 images to train on, 6 to test, of 3 classes" in out
    assert out.count("skipped") == 1 and f"skipped {train / 'red' / 'broken.png'}: " in out
    assert re.findall(r"^ *(\S+)% of +(\d+)  (\w+)$", out, re.MULTILINE) == [
        ("100.0", "3", "blue"),
        ("100.0", "2", "red"),
        ("100.0", "1", "white"),
    ]
    assert out.endswith("accuracy 100.0% on 6 images (most frequent class: 50.0%)\n")


def test_linear_probe_holds_a_fifth_of_each_class_out():
    probe = runpy.run_path(str(EXAMPLES / "linear_probe.py"))
    labels = np.repeat([0, 1, 2], [10, 3, 1])
    images = probe["ImageSet"]([Path(str(i)) for i in range(14)], labels)
    train, test = probe["split"](images, np.random.default_rng(0))
    assert np.bincount(train.labels).tolist() == [8, 2, 1]
    assert np.bincount(test.labels).tolist() == [2, 1]
    assert sorted(map(int, map(str, train.paths + test.paths))) == list(range(14))
    for part in (train, test):
        assert [labels[int(str(path))] for path in part.paths] == part.labels.tolist()
    again, _ = probe["split"](images, np.random.default_rng(0))
    other, _ = probe["split"](images, np.random.default_rng(1))
    assert again.paths == train.paths != other.paths


def test_linear_probe_finds_the_minimum(compile_quickly):
    probe = runpy.run_path(str(EXAMPLES / "linear_probe.py"))
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 8)).astype(np.float32)
    labels = (features @ rng.standard_normal((8, 3)) + rng.gumbel(size=(200, 3))).argmax(axis=1)
    linear = probe["fit"](features, labels, 3, 0.05)
    from sklearn.linear_model import LogisticRegression

    # scikit-learn's penalty has the weight 1 beside the sum of the losses over C.
    theirs = LogisticRegression(C=1 / (0.05 * 200), tol=1e-8, max_iter=1000).fit(features, labels)
    np.testing.assert_allclose(linear.weight.T, theirs.coef_, atol=1e-3)
    bias = linear.bias - linear.bias.mean()  # only differences count
    np.testing.assert_allclose(bias, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-3)


def broken_probe_folders(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """Folders to train and to test on, by what is wrong with them."""
    good = write_classes(folder / "good", {"blue": 2, "red": 2})
    one = write_classes(folder / "one", {"blue": 2})
    empty = write_classes(folder / "empty", {"blue": 2, "red": 0, "white": 0})
    more = write_classes(folder / "more", {"blue": 2, "white": 2})
    single = write_classes(folder / "single", {"blue": 1, "red": 1})
    spoilt = write_classes(folder / "spoilt", {"blue": 2, "red": 0})
    (spoilt / "red" / "broken.png").write_bytes(b"")
    return {
        "missing": (folder / "nowhere", None),
        "missing test": (good, folder / "nowhere"),
        "one class": (one, None),
        "empty classes": (empty, None),
        "unknown classes": (good, more),
        "nothing to hold out": (single, None),
        "unreadable class": (spoilt, good),
    }


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("missing", "There is no folder"),
        ("missing test", "There is no folder"),
        ("one class", "Expected two classes or more"),
        ("empty classes", "for red, white. Add some"),
        ("unknown classes", "classes that were not trained: white."),
        ("nothing to hold out", "give --test"),
        ("unreadable class", "No image that can be read to train on for red."),
    ],
)
def test_linear_probe_explains_mistakes(
    compile_quickly, run_here, model_folder, tmp_path, case, expected
):
    train, test = broken_probe_folders(tmp_path)[case]
    arguments = ["--train", train, *([] if test is None else ["--test", test])]
    code, _, err = run_here("linear_probe.py", *arguments, "--model", model_folder)
    last = err.splitlines()[-1]  # after a bar, where the machine is slow
    assert code == 2 and last.startswith("error: ") and expected in last


def test_linear_probe_without_the_model_says_what_to_do(run_here, tmp_path):
    folder = write_classes(tmp_path / "all", {"blue": 2, "red": 2})
    code, _, err = run_here("linear_probe.py", "--train", folder, "--model", "vit-bas-patch32")
    assert code == 2 and err.startswith("error: ") and "'vit-base-patch32'" in err
    code, _, err = run_here("linear_probe.py", "--train", folder, "--l2", "nan")
    assert code == 2 and "--l2 must be" in err


# examples/search_images.py


@pytest.fixture
def search(run_here, model_folder, monkeypatch, tmp_path):
    """Searches with a cache and a current folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_here("search_images.py", "--model", model_folder, *arguments)


@pytest.fixture
def photos(tmp_path):
    """Three colours, two images of each, in sub-folders; one broken file and one that is none."""
    folder = write_classes(tmp_path / "photos", {"blue": 2, "red": 2, "white": 2})
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not meant to be an image")
    return folder


def results(out: str) -> list[tuple[float, str]]:
    found = re.findall(r"^(-?\d\.\d{3})  (.+)$", out, re.MULTILINE)
    return [(float(cosine), path) for cosine, path in found]


def test_search_images_finds_images_like_another(search, photos, tmp_path):
    code, out, err = search(photos, "--query-image", photos / "red" / "1.png", "-k", 2)
    assert code is None, err
    (cosine, path), (_, other) = results(out)
    assert cosine == 1 and path == "red/1.png" and other == "red/more/0.png"
    assert "The 2 of 6 images nearest to" in out
    assert out.count("skipped") == 1 and f"skipped {photos / 'broken.jpg'}: " in out
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "cache", "results.png"}
    with Image.open(tmp_path / "results.png") as picture:
        picture.load()
        red = np.asarray(picture)[100:200, 100:150].mean(axis=(0, 1))
    np.testing.assert_allclose(red, COLOURS["red"], atol=10)


def test_search_images_ranks_by_the_cosine_with_a_text(search, photos, model_folder):
    code, out, _ = search(photos, "something Größeres", "-k", 100, "--out", "sheet.jpg")
    assert code is None and Path("sheet.jpg").is_file()
    shown = results(out)
    model = eqx_clip.load(model_folder)
    images = eqx_clip.embed_images(model, [photos / path for _, path in shown])
    cosines = images @ eqx_clip.embed_texts(model, ["something Größeres"])[0]
    np.testing.assert_allclose([cosine for cosine, _ in shown], cosines, atol=6e-4)
    assert len(shown) == 6 and list(cosines) == sorted(cosines, reverse=True)


def test_search_images_encodes_only_what_changed(search, photos, monkeypatch, tmp_path):
    index = tmp_path / "photos.npz"

    def counts(*options):
        code, out, err = search(photos, "red", "--index", index, *options)
        assert code is None, err
        found = re.search(r"(\d+) images encoded, (\d+) known", out)
        assert found
        return int(found[1]), int(found[2])

    assert counts() == (6, 0)
    written = index.stat().st_mtime_ns
    assert counts() == (0, 6) and index.stat().st_mtime_ns == written
    os.utime(photos / "red" / "1.png", ns=(0, 0))
    (photos / "blue" / "1.png").unlink()
    Image.new("RGB", (9, 9)).save(photos / "new.png")
    assert counts() == (2, 4)
    other = tmp_path / "other"
    eqx_clip.save(tiny(seed=1), other)
    assert counts("--model", other) == (6, 0)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"my diary", "archive", "array"])
def test_search_images_never_writes_over_a_file_that_is_no_index(search, photos, content):
    path = Path("precious.npz")
    if content == "archive":
        np.savez(path, weights=np.ones(3))
    elif content == "array":
        np.save("array.npy", np.ones(3))
        Path("array.npy").rename(path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    code, out, err = search(photos, "red", "--index", path)
    assert code == 2 and out == ""
    assert err == (
        f"error: {path} is no index of this program. Name another with --index, or remove it.\n"
    )
    assert path.read_bytes() == before and not Path("results.png").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere", "red"), "There is no folder"),
        (("empty", "red"), "There is no image in"),
        (("broken", "red"), "None of the images can be read."),
        (("photos",), "either a text or --query-image"),
        (("photos", "red", "--query-image", "photos/red/1.png"), "either a text or --query-image"),
        (("photos", "--query-image", "photos/broken.jpg"), "is not an image that Pillow"),
        (("photos", "--query-image", "no.jpg"), "No such file or directory: 'no.jpg'"),
        (("photos", "red", "-k", "0"), "-k must be at least 1; got 0"),
        (("photos", "red", "-k", "many"), "invalid int value: 'many'"),
        (("photos", "red", "--out", "photos/red/1.png"), "name another place with --out"),
        (("photos", "red", "--out", "no/where.png"), "There is no folder no to write where.png"),
        (("photos", "red", "--out", "sheet.txt"), "--out must end in"),
        (("photos", "red", "--out", "empty"), "--out must be a file; empty is a folder."),
        (("photos", "red", "--index", "no/where.npz"), "There is no folder no to write where.npz"),
        (("photos", "red", "--index", "empty"), "empty is no index of this program"),
    ],
)
def test_search_images_explains_mistakes(search, photos, arguments, expected):
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/broken.png").write_bytes(b"")
    before = (photos / "red" / "1.png").read_bytes()
    code, _, err = search(*arguments)
    assert code == 2 and expected in err.splitlines()[-1] and "Traceback" not in err
    assert (photos / "red" / "1.png").read_bytes() == before


# examples/convert_to_tfrecords.py


@pytest.fixture
def convert(run_here, monkeypatch, tmp_path):
    monkeypatch.setenv("EQX_CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_here("convert_to_tfrecords.py", *arguments)


def write_table(images: int) -> None:
    Path("images").mkdir()
    rows = ["words,file\n"]
    for i in range(images):
        Image.new("RGB", (9, 7), (i, 0, 0)).save(f"images/{i}.png")
        rows.append(f'"image {i}, NA",images/{i}.png\n')
    Path("train.csv").write_text("".join(rows))


KEYS = ("--image-key", "file", "--text-key", "words")


def test_convert_to_tfrecords_copies_images_and_texts(convert):
    write_table(10)
    options = ("--split", "train[:70%]", "--shard-size", 3)
    code, out, err = convert("train.csv", "shards", *KEYS, *options)
    assert code is None and out == "7 examples are in shards.\n" and "7/7" in err
    assert sorted(os.listdir("shards")) == [f"0000{i}.tfrecord" for i in range(3)]
    assert list(eqx_clip.data.open_source("shards")) == [
        {"image": Path(f"images/{i}.png").read_bytes(), "text": f"image {i}, NA"} for i in range(7)
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere.csv", "shards"), "There is no file"),
        (("train.csv", "shards"), "'words', 'file', none may be the image: pass `image_key=`"),
        (("train.csv", "shards", *KEYS, "--split", "valid"), "valid"),
        (("train.csv", "shards", *KEYS, "--shard-size", "0"), "`shard_size` must be"),
        (("train.csv", "full", *KEYS), "holds TFRecord files already"),
    ],
    ids=["no table", "no keys", "no split", "no size", "full folder"],
)
def test_convert_to_tfrecords_explains_mistakes(convert, arguments, expected):
    write_table(2)
    Path("full").mkdir()
    Path("full/00000.tfrecord").touch()
    code, out, err = convert(*arguments)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and re.search(expected, err)
    assert not Path("shards").exists()
