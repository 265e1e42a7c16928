"""Trains a small CLIP on real handwritten digits, and classifies digits that it never saw.

    python examples/demo.py [--folder demo] [--steps 1000] [--seed 0]

Images and captions go into a folder as any image-text data set does: image files, and a CSV file of
image paths and captions. A model is trained on them, saved in OpenCLIP's format and loaded back.
Then it classifies zero-shot: the classes are named in prompts that training never used.

It needs no network: the images are the 1,797 digits that scikit-learn ships, 8 by 8 pixels each.
They are the test set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from matplotlib.figure import Figure, FigureBase
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

MODEL = {  # in OpenCLIP's format, as in its `open_clip_config.json`
    "embed_dim": 64,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 64, "layers": 3, "head_width": 16},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}

# The loss takes every other caption of a batch for a wrong one, but here a tenth of them name the
# same digit. The model cannot do better than to share its probability among these, which only
# raises the least loss that is possible: from 0 to about 1.3 for a batch of 32 (see the picture).
# Small batches have few such pairs, and many cheap steps. Web-scale data hardly has any.
BATCH_SIZE = 32

BLUE, GREEN, RED = "#1f5fa8", "#2a7f62", "#c0392b"


def main(folder: Path, steps: int, seed: int) -> float:
    """The whole demo. Returns the accuracy on held-out digits."""
    write_data(folder, seed)
    model, losses = train_model(folder, steps, seed)

    eqx_clip.save(model, folder / "model")
    model = eqx_clip.load(folder / "model")
    print(f"Saved in OpenCLIP's format to {folder / 'model'}, and loaded back from there.")

    held_out = read_csv(folder / "held_out.csv")
    probabilities = classify(model, [folder / row["image_path"] for row in held_out])
    accuracy = float(np.mean(probabilities.argmax(axis=1) == labels_of(held_out)))

    print_table(held_out, probabilities)
    draw(folder / "demo.png", held_out, probabilities, losses)
    print(f"Picture of predictions and training: {folder / 'demo.png'}")
    print(f"Zero-shot accuracy on {len(held_out)} held-out digits: {accuracy:.1%} (chance: 10%)")
    return accuracy


def write_data(folder: Path, seed: int) -> None:
    """Image files; `train.csv` with captions for 80% of them; `held_out.csv` with the others."""
    (folder / "digits").mkdir(parents=True, exist_ok=True)
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    train_rows, held_out_rows = [], []
    for place, index in enumerate(rng.permutation(len(labels))):
        path, label = f"digits/{index:04}.png", int(labels[index])
        pixels = (images[index] * (255 / 16)).astype(np.uint8).reshape(8, 8)
        Image.fromarray(pixels).save(folder / path)
        if place < len(labels) // 5:
            held_out_rows.append({"image_path": path, "digit": label})
            continue
        for template in TRAINING_TEMPLATES:
            caption = template.format(rng.choice([DIGITS[label], str(label)]))
            train_rows.append({"image_path": path, "caption": caption})
    write_csv(folder / "train.csv", train_rows)
    write_csv(folder / "held_out.csv", held_out_rows)
    print(f"Wrote {len(labels):,} digits and {len(train_rows):,} captions to {folder}.")


def write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def labels_of(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([int(row["digit"]) for row in rows])


def train_model(folder: Path, steps: int, seed: int) -> tuple[eqx_clip.CLIP, list[float]]:
    """A new model, trained on `train.csv`, and the loss of every step."""
    print("Making a new model: XLA compiles its random initialisation, which takes a moment.")
    model = eqx_clip.create(MODEL, key=jax.random.key(seed))
    schedule = train.cosine_schedule(2e-3, total_steps=steps, warmup_steps=steps // 20)
    optimizer = train.adamw(schedule)
    state = train.init_state(model, optimizer)
    train_step = train.make_train_step(optimizer)

    losses = []
    data = batches(folder, model, np.random.default_rng(seed))
    with tqdm(total=steps, desc="Compiling the train step", unit="step") as progress:
        for step in range(steps):
            state, metrics = train_step(state, next(data))
            losses.append(metrics["loss"])  # still being computed: the next batch need not wait
            if step % 20 == 0 or step == steps - 1:
                progress.set_description("Training")
                progress.set_postfix(loss=f"{float(metrics['loss']):.2f}")
            progress.update()
    return state.model, [float(loss) for loss in losses]


def batches(folder: Path, model: eqx_clip.CLIP, rng: np.random.Generator) -> Iterator[train.Batch]:
    """Batches of `train.csv`, shuffled anew in each epoch, with randomly cropped images."""
    rows, of_model = read_csv(folder / "train.csv"), model.preprocess
    augment = eqx_clip.Augment(of_model.image_size, of_model.mean, of_model.std, scale=(0.8, 1.0))
    while True:
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - BATCH_SIZE + 1, BATCH_SIZE):
            batch = [rows[index] for index in order[start : start + BATCH_SIZE]]
            images = [augment.pixels(folder / row["image_path"], rng) for row in batch]
            yield {
                "image": np.stack(images),
                "tokens": model.tokenize(row["caption"] for row in batch),
            }


def classify(model: eqx_clip.CLIP, paths: list[Path]) -> np.ndarray:
    """The probabilities (images, digits), with prompts made of `NEW_TEMPLATES`."""
    assert not set(NEW_TEMPLATES) & set(TRAINING_TEMPLATES)
    print("Classifying with prompts that training never used:", *NEW_TEMPLATES, sep="\n  ")
    classifier = eqx_clip.zero_shot_classifier(model, DIGITS, NEW_TEMPLATES)
    images = np.stack([model.preprocess(path) for path in paths])
    return np.asarray(jax.nn.softmax(model.logits(encode_images(model, images), classifier)))


@eqx.filter_jit
def encode_images(model: eqx_clip.CLIP, images: np.ndarray) -> jax.Array:
    """Methods of a model act on one example: `jax.vmap` makes them act on a batch."""
    return jax.vmap(model.encode_image)(images)


def print_table(rows: list[dict[str, str]], probabilities: np.ndarray, count: int = 8) -> None:
    print(f"\n{'probability in %':20}" + "".join(f"{name:>7}" for name in DIGITS))
    for row, of_digits in list(zip(rows, probabilities, strict=True))[:count]:
        cells = "".join(f"{100 * probability:7.1f}" for probability in of_digits)
        print(f"{row['image_path']} ({row['digit']}) {cells}")
    print()


def draw(
    path: Path, rows: list[dict[str, str]], probabilities: np.ndarray, losses: list[float]
) -> None:
    """One picture: the hardest of the held-out digits on the left, the training on the right."""
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2), wspace=0.05)
    draw_digits(left, path.parent, rows, probabilities)
    draw_losses(right, losses)
    figure.savefig(path, dpi=120)


def draw_digits(
    figure: FigureBase, folder: Path, rows: list[dict[str, str]], probabilities: np.ndarray
) -> None:
    labels, predicted = labels_of(rows), probabilities.argmax(axis=1)
    correct = np.sum(labels == predicted)
    figure.suptitle(
        f"{correct} of {len(rows)} held-out digits classified right, zero-shot; the 50 hardest:",
        fontsize=14,
    )
    hardest = np.argsort(probabilities[np.arange(len(rows)), labels])[:50]
    for axes, index in zip(figure.subplots(5, 10).flat, hardest, strict=True):
        label, answer = labels[index], predicted[index]
        colour = GREEN if label == answer else RED
        axes.imshow(Image.open(folder / rows[index]["image_path"]), cmap="gray")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=colour, linewidth=1 if label == answer else 3)
        axes.set_title(DIGITS[answer], color=colour, fontsize=12, pad=4)
        axes.set_xlabel("" if label == answer else f"not {DIGITS[label]}", color=colour)


def draw_losses(figure: FigureBase, losses: list[float]) -> None:
    figure.suptitle(f"Training: batches of {BATCH_SIZE} images and captions", fontsize=14)
    axes = figure.subplots()
    window = min(25, len(losses))
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(losses, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(np.arange(len(smooth)) + window // 2, smooth, color=BLUE, linewidth=2)
    # How many captions of a batch name the same digit as a given image does, its own included.
    same = 1 + np.random.default_rng(0).binomial(BATCH_SIZE - 1, 1 / len(DIGITS), size=100_000)
    for loss, meaning in (
        (np.log(BATCH_SIZE), "chance"),
        (
            np.mean(np.log(same)),
            "every digit known: captions of equal digits remain equally likely",
        ),
    ):
        axes.axhline(loss, color="grey", linestyle="--", linewidth=1)
        axes.annotate(meaning, (len(losses), loss), (0, 4), ha="right", textcoords="offset points")
    axes.set(xlabel="step", ylabel="contrastive loss", xlim=(0, len(losses)))
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a small CLIP on handwritten digits.")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where to write")
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--seed", type=int, default=0, help="of split, initialisation, batches")
    arguments = parser.parse_args()
    try:
        accuracy = main(arguments.folder, arguments.steps, arguments.seed)
    except KeyboardInterrupt:
        sys.exit("\nStopped. Nothing is half-written that matters: the next run starts afresh.")
    if accuracy < 0.95:
        sys.exit("That is less than 95%: train longer (`--steps`).")
