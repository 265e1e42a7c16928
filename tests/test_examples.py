"""The examples, run as users run them, without a network."""

import csv
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from PIL import Image
from sklearn.datasets import load_digits

import eqx_clip


EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A process without a network and with an empty cache, in which warnings are errors."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cwd / "empty")}
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
def zero_shot(monkeypatch, capsys):
    """Runs the example in this process, which is faster: exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["zero_shot.py", *map(str, arguments)])
        code = None
        try:
            runpy.run_path(str(EXAMPLES / "zero_shot.py"), run_name="__main__")
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


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
