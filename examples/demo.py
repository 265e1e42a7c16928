"""Trains a small CLIP on real handwritten digits, and classifies digits that it never saw.

    python examples/demo.py [--folder demo] [--steps 1000] [--seed 0]

Images and captions go into a folder as those of any data set do: image files, and a CSV file of
paths and captions. A model is trained on them, saved in OpenCLIP's format and loaded back. Then it
classifies digits zero-shot: the classes are named in prompts that training never used.

It needs no network: the images are the 1,797 digits that scikit-learn ships, 8 by 8 pixels each.
They are the test set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from matplotlib.figure import Figure, SubFigure
from PIL import Image
from sklearn.datasets import load_digits
from tqdm import tqdm

import eqx_clip
from eqx_clip import train


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAINING_TEMPLATES = (
    "{}",
    "a handwritten {}",
    "this is a {}",
    "a photo of the number {}.",
    "the digit {}, written by hand",
    "someone wrote a {} here",
    "the number {} in black and white",
)
NEW_TEMPLATES = ("a scan of the digit {}.", "an image of a {}", "my handwriting: the number {}!")

MODEL = {  # in OpenCLIP's format; the folder that is saved has it as `open_clip_config.json`
    "embed_dim": 64,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 64, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 32, "layers": 1, "heads": 2, "vocab_size": 49408},
}

# The loss takes every other caption of a batch for a wrong one, but here a tenth of them name the
# same digit. The best that a model can do is to call these equally likely, so the loss cannot reach
# 0, only about 1.3 for a batch of 32; the picture shows this bound. Training works none the worse.
# A larger batch has as large a share of such pairs, and its steps cost more.
BATCH_SIZE = 32

Row = dict[str, str]
BLUE, GREEN, RED = "#1f5fa8", "#2a7f62", "#c0392b"


def main(folder: Path, steps: int, seed: int) -> float:
    """The whole demo. Returns the accuracy on the held-out digits."""
    write_data(folder, seed)
    model, losses = train_model(folder, steps, seed)

    eqx_clip.save(model, folder / "model")
    model = eqx_clip.load(folder / "model")
    print(f"Saved the model to {folder / 'model'}, in OpenCLIP's format, and loaded it from there.")

    rows = read_csv(folder / "held_out.csv")
    labels = np.array([int(row["digit"]) for row in rows])
    probabilities = classify(model, [folder / row["image_path"] for row in rows])
    print_table(labels, probabilities)
    draw(folder, rows, labels, probabilities, losses)
    print(f"Drew predictions and training: {folder / 'demo.png'}")

    accuracy = float(np.mean(probabilities.argmax(axis=1) == labels))
    print(f"Zero-shot accuracy on {len(rows)} held-out digits: {accuracy:.1%} (chance: 10%)")
    return accuracy


def write_data(folder: Path, seed: int) -> None:
    """Image files, `train.csv` with captions of 80% of them, and `held_out.csv` with the others."""
    (folder / "digits").mkdir(parents=True, exist_ok=True)
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    train_rows, held_out_rows = [], []
    for place, index in enumerate(rng.permutation(len(labels))):
        path, digit = f"digits/{index:04}.png", int(labels[index])
        pixels = (images[index] * 255 / 16).round().astype(np.uint8)
        Image.fromarray(pixels.reshape(8, 8)).save(folder / path)
        if place < len(labels) // 5:
            held_out_rows.append({"image_path": path, "digit": str(digit)})
            continue
        for template in TRAINING_TEMPLATES:
            caption = template.format(rng.choice([DIGITS[digit], str(digit)]))
            train_rows.append({"image_path": path, "caption": caption})
    write_csv(folder / "train.csv", train_rows)
    write_csv(folder / "held_out.csv", held_out_rows)
    print(f"Wrote {len(labels):,} images and {len(train_rows):,} captions to {folder}")


def write_csv(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def train_model(folder: Path, steps: int, seed: int) -> tuple[eqx_clip.CLIP, list[float]]:
    """A new model, trained on `train.csv`, and the loss of every step."""
    with tqdm(
        total=steps, desc="Compiling the new model", unit="step", mininterval=0.5
    ) as progress:
        model = eqx_clip.create(MODEL, key=jax.random.key(seed))
        schedule = train.cosine_schedule(2e-3, total_steps=steps, warmup_steps=steps // 20)
        optimizer = train.adamw(schedule)
        state = train.init_state(model, optimizer)
        train_step = train.make_train_step(optimizer)
        data = batches(folder, model, np.random.default_rng(seed))

        progress.set_description("Compiling the train step")
        losses = []
        for step in range(steps):
            state, metrics = train_step(state, next(data))
            losses.append(metrics["loss"])  # still being computed: the next batch need not wait
            if step % 20 == 0 or step == steps - 1:
                progress.set_description("Training")
                progress.set_postfix(loss=f"{float(metrics['loss']):.2f}")
            progress.update()
    return state.model, [float(loss) for loss in losses]


def batches(folder: Path, model: eqx_clip.CLIP, rng: np.random.Generator) -> Iterator[train.Batch]:
    """Batches of `train.csv` without end, shuffled anew in each epoch, the images cropped."""
    rows, of_model = read_csv(folder / "train.csv"), model.preprocess
    augment = eqx_clip.Augment(of_model.image_size, of_model.mean, of_model.std, scale=(0.8, 1.0))
    while True:
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - BATCH_SIZE + 1, BATCH_SIZE):
            batch = [rows[index] for index in order[start : start + BATCH_SIZE]]
            images = [augment.pixels(folder / row["image_path"], rng) for row in batch]
            tokens = model.tokenize([row["caption"] for row in batch])
            yield {"image": np.stack(images), "tokens": tokens}


def classify(model: eqx_clip.CLIP, paths: list[Path]) -> np.ndarray:
    """The probabilities (images, digits), with prompts made of `NEW_TEMPLATES`."""
    print(
        "Classifying zero-shot with prompts that training never used:", *NEW_TEMPLATES, sep="\n  "
    )
    classifier = eqx_clip.zero_shot_classifier(model, DIGITS, NEW_TEMPLATES)
    image_features = encode_images(model, np.stack([model.preprocess(path) for path in paths]))
    return np.asarray(jax.nn.softmax(model.logits(image_features, classifier)))


@eqx.filter_jit
def encode_images(model: eqx_clip.CLIP, images: np.ndarray) -> jax.Array:
    """Methods of a model act on one example; `jax.vmap` makes them act on a batch."""
    return jax.vmap(model.encode_image)(images)


def print_table(labels: np.ndarray, probabilities: np.ndarray) -> None:
    """The probabilities of one held-out image of each digit."""
    _, firsts = np.unique(labels, return_index=True)
    print("\nProbabilities in %" + "".join(f"{name:>7}" for name in DIGITS))
    for index in firsts:
        cells = "".join(f"{100 * probability:7.1f}" for probability in probabilities[index])
        print(f"{'image of a ' + str(labels[index]):>17}{cells}")
    print()


def draw(
    folder: Path,
    rows: list[Row],
    labels: np.ndarray,
    probabilities: np.ndarray,
    losses: list[float],
) -> None:
    """One picture: the hardest of the held-out digits on the left, the training on the right."""
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(3, 2), wspace=0.05)[0]
    predicted = probabilities.argmax(axis=1)
    hardest = np.argsort(probabilities[np.arange(len(rows)), labels])[:50]
    images = [Image.open(folder / rows[index]["image_path"]) for index in hardest]
    draw_digits(left, images, labels[hardest], predicted[hardest])
    draw_losses(right, losses)
    right_ones = np.sum(predicted == labels)
    left.suptitle(f"Zero-shot, {right_ones} of {len(rows)} held-out digits right; the 50 hardest:")
    figure.savefig(folder / "demo.png", dpi=120)


def draw_digits(
    figure: SubFigure, images: Sequence[Image.Image], labels: np.ndarray, predicted: np.ndarray
) -> None:
    for axes, image, label, answer in zip(
        figure.subplots(5, 10).flat, images, labels, predicted, strict=True
    ):
        colour, note = (GREEN, "") if answer == label else (RED, f"not {DIGITS[label]}")
        axes.imshow(image, cmap="gray")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=colour, linewidth=3 if note else 1)
        axes.set_title(DIGITS[answer], color=colour, fontsize=12, pad=4)
        axes.set_xlabel(note, color=colour, fontsize=11)


def draw_losses(figure: SubFigure, losses: list[float]) -> None:
    figure.suptitle(f"Contrastive loss, batches of {BATCH_SIZE} images and captions")
    axes = figure.subplots()
    window = min(25, len(losses))
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(losses, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(np.arange(len(smooth)) + window // 2, smooth, color=BLUE, linewidth=2)
    # How many captions of a batch name the digit of a given image, its own caption included.
    same = 1 + np.random.default_rng(0).binomial(BATCH_SIZE - 1, 1 / len(DIGITS), size=100_000)
    bound = float(np.mean(np.log(same)))
    for loss, note in ((np.log(BATCH_SIZE), "chance"), (bound, "the least possible loss")):
        axes.axhline(loss, color="grey", linestyle="--", linewidth=1)
        axes.annotate(
            f"{note}: {loss:.2f}",
            (len(losses), loss),
            (0, -15),
            ha="right",
            color="dimgrey",
            textcoords="offset points",
        )
    axes.set(xlabel="step", xlim=(0, len(losses)), ylim=(bound - 0.35, None))
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a small CLIP on handwritten digits.")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where to write")
    parser.add_argument("--steps", type=int, default=1000, help="how long to train")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the training")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be at least 1")
    try:
        accuracy = main(arguments.folder, arguments.steps, arguments.seed)
    except KeyboardInterrupt:
        sys.exit("\nStopped. The next run starts afresh, and a model saved before is still whole.")
    if accuracy < 0.95:
        sys.exit("That is less than the 95% that this demo should reach. Train longer: --steps.")
