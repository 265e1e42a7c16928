"""Trains a linear classifier on a model's image features, and says how often it is right.

    python examples/linear_probe.py --train photos/train --test photos/test
    python examples/linear_probe.py --train photos
    python examples/linear_probe.py --train photos --model vit-large-patch14 --l2 0.001

Each sub-folder is a class and holds its images: photos/train/cat/1.jpg, photos/train/dog/2.jpg.
Without --test a fifth of each class is held out. The model itself stays as it is: each image is
encoded once, and the classifier is a logistic regression on the features.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

import eqx_clip


class ImageSet(NamedTuple):
    paths: list[Path]
    labels: np.ndarray  # int (images,)

    def take(self, indices: np.ndarray) -> "ImageSet":
        return ImageSet([self.paths[index] for index in indices], self.labels[indices])


class Linear(NamedTuple):
    weight: jax.Array  # (embed, classes)
    bias: jax.Array  # (classes,)


def main(arguments: argparse.Namespace) -> None:
    # All folders are read before a model is: better an error now than one after a download.
    names = class_names(arguments.train)
    train = read_folder(arguments.train, names)
    check_all_present(train.labels, names, f"No image in {arguments.train} for")
    if arguments.test is None:
        train, test = split(train, np.random.default_rng(arguments.seed))
    else:
        test = read_folder(arguments.test, names)
    print(
        f"{len(train.paths)} images to train on, {len(test.paths)} to test, of {len(names)} classes"
    )

    model = eqx_clip.load(arguments.model, arguments.pretrained)
    train_features, train_labels = encode(model, train)
    check_all_present(train_labels, names, "No image that can be read to train on for")
    test_features, test_labels = encode(model, test)
    if not len(test_labels):
        raise ValueError("None of the images to test on can be read.")

    # Features that vary equally much make the problem easy to solve, and one `l2` fit all models.
    mean, std = train_features.mean(axis=0), train_features.std(axis=0) + 1e-6
    linear = fit((train_features - mean) / std, train_labels, len(names), arguments.l2)
    predicted = np.asarray((test_features - mean) / std @ linear.weight + linear.bias).argmax(
        axis=1
    )
    report(predicted == test_labels, test_labels, names)


def class_names(folder: Path) -> list[str]:
    """The sub-folders' names, sorted; their places are the labels."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    paths = sorted(folder.iterdir())
    names = [path.name for path in paths if path.is_dir() and not path.name.startswith(".")]
    if len(names) < 2:
        raise ValueError(
            f"Expected two classes or more, each a sub-folder of images: {folder / 'cat'}, "
            f"{folder / 'dog'}; {folder} has {', '.join(names) or 'no sub-folder'}."
        )
    return names


def read_folder(folder: Path, names: list[str]) -> ImageSet:
    """All images below `folder`, whose classes are among `names`."""
    strangers = sorted(set(class_names(folder)) - set(names))
    if strangers:
        raise ValueError(f"{folder} has classes that were not trained: {', '.join(strangers)}.")
    Image.init()  # so that Pillow knows all its formats
    suffixes = {
        suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN
    }
    images = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in suffixes and path.is_file()
    ]
    if not images:
        raise ValueError(f"There is no image in the classes of {folder}.")
    paths, labels = zip(*images, strict=True)
    return ImageSet(list(paths), np.array(labels))


def check_all_present(labels: np.ndarray, names: list[str], problem: str) -> None:
    missing = [name for label, name in enumerate(names) if label not in labels]
    if missing:
        raise ValueError(f"{problem} {', '.join(missing)}. Add some, or remove the folder.")


def split(images: ImageSet, rng: np.random.Generator) -> tuple[ImageSet, ImageSet]:
    """A fifth of each class to test on, at least one image; each keeps one to train on."""
    train, test = [], []
    for label in np.unique(images.labels):
        indices = rng.permutation(np.flatnonzero(images.labels == label))
        held_out = min(max(1, len(indices) // 5), len(indices) - 1)
        test.extend(indices[:held_out])
        train.extend(indices[held_out:])
    if not test:
        raise ValueError("No class has two images, one to train on and one to test: give --test.")
    return images.take(np.sort(train)), images.take(np.sort(test))


def encode(model: eqx_clip.CLIP, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Features (images, embed) and labels of the images that can be read; the others are named."""
    skipped: dict[int, Exception] = {}
    features = eqx_clip.embed_images(model, images.paths, on_error=skipped.__setitem__)
    for index, error in skipped.items():
        print(f"skipped {images.paths[index]}: {error}")
    return features, np.delete(images.labels, list(skipped))


def fit(features: np.ndarray, labels: np.ndarray, classes: int, l2: float) -> Linear:
    """Logistic regression by L-BFGS, each step on all of the data.

    The problem is convex, with one solution: it needs neither a seed nor a learning rate.
    """
    optimizer = optax.lbfgs()

    # The data are arguments: arrays that a compiled function finds elsewhere become constants.
    @jax.jit
    def step(
        linear: Linear, state: optax.OptState, features: jax.Array, labels: jax.Array
    ) -> tuple[Any, optax.OptState, jax.Array]:
        def loss(linear: Linear) -> jax.Array:
            logits = features @ linear.weight + linear.bias
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return nll.mean() + l2 / 2 * jnp.sum(linear.weight**2)

        # The line search of the step before has computed both already.
        value_and_grad: Any = optax.value_and_grad_from_state(loss)
        value, grad = value_and_grad(linear, state=state)
        updates, state = optimizer.update(
            grad, state, linear, value=value, grad=grad, value_fn=loss
        )
        steepest = jnp.maximum(jnp.abs(grad.weight).max(), jnp.abs(grad.bias).max())
        return optax.apply_updates(linear, updates), state, steepest

    data = jnp.asarray(features), jnp.asarray(labels)
    linear = Linear(jnp.zeros((features.shape[1], classes)), jnp.zeros(classes))
    state = optimizer.init(linear)
    for _ in range(500):
        linear, state, steepest = step(linear, state, *data)
        if steepest < 1e-5:
            break
    return linear


def report(right: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    """The accuracy, and that of each class where they are few."""
    if len(names) <= 20:
        for label in np.unique(labels):
            of_class = right[labels == label]
            print(f"{of_class.mean():7.1%} of {len(of_class):5}  {names[label]}")
    most = np.bincount(labels).max() / len(labels)
    print(f"accuracy {right.mean():.1%} on {len(labels)} images (most frequent class: {most:.1%})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a linear classifier on image features.")
    parser.add_argument("--train", type=Path, required=True, help="a folder of classes")
    parser.add_argument("--test", type=Path, help="another (default: a fifth of --train)")
    parser.add_argument(
        "--model",
        default="vit-base-patch32",
        help="a registered name, a folder, or hf-hub:organisation/repository (%(default)s)",
    )
    parser.add_argument("--pretrained", metavar="TAG", help="which weights of a registered model")
    parser.add_argument(
        "--l2", type=float, default=0.01, help="how much large weights cost (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (%(default)s)")
    arguments = parser.parse_args()
    if not 0 <= arguments.l2 < float("inf"):
        parser.error("--l2 must be a number from 0 up")
    try:
        main(arguments)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
