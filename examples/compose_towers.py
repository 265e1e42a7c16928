"""Five small things to build from CLIP's towers, each in one short part.

    python examples/compose_towers.py
    python examples/compose_towers.py --model vit-base-patch32 --folder merged

The data are noisy colours and their names, and without --model the model is small and random, so
that all runs at once and offline: take the functions, not the figures.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import eqx_clip


COLOURS = {"red": (210, 50, 50), "green": (50, 170, 70), "blue": (50, 80, 210), "grey": (130,) * 3}

ModelT = TypeVar("ModelT", bound=eqx.Module)


class Data(NamedTuple):
    """Row i of the images and row i of the tokens belong together, and are class i."""

    images: np.ndarray  # float32 (4, 3, height, width)
    unseen: np.ndarray  # as many images to test with
    tokens: np.ndarray  # int32 (4, context)


# 1. A classifier of your own around the image tower


class Classifier(eqx.Module):
    """The mean of the patches' features, and a linear layer."""

    tower: eqx_clip.VisionTransformer
    head: eqx.nn.Linear

    def __call__(self, image: np.ndarray | jax.Array) -> jax.Array:
        patches = self.tower.features(image)[1:]  # the class token comes first
        return self.head(patches.mean(axis=0))


def build_classifier(tower: eqx_clip.VisionTransformer, data: Data) -> Classifier:
    """Trains tower and head together: a tower is a part like any other of Equinox's."""

    @eqx.filter_jit
    def logits(classifier: Classifier, images: np.ndarray) -> jax.Array:
        return jax.vmap(classifier)(images)

    def loss(classifier: Classifier, images: np.ndarray) -> jax.Array:
        log_probabilities = jax.nn.log_softmax(logits(classifier, images))
        return -jnp.diag(log_probabilities).mean()  # image i is of class i

    head = eqx.nn.Linear(tower.config.width, len(COLOURS), key=jax.random.key(0))
    classifier = fit(Classifier(tower, head), True, loss, data.images)
    print(f"classifier: {share_right(logits(classifier, data.unseen))} of unseen images right")
    return classifier


# 2. LoRA (https://arxiv.org/abs/2106.09685) on the image tower


class LoRA(eqx.Module):
    """A linear layer plus the product of two thin matrices: `x -> (W + B A) x + bias`."""

    linear: eqx.nn.Linear
    lora_a: jax.Array  # (rank, in)
    lora_b: jax.Array  # (out, rank), zeros at first: training begins at the model as it was

    def __init__(self, linear: eqx.nn.Linear, rank: int, *, key: jax.Array):
        (out, width), dtype = linear.weight.shape, linear.weight.dtype
        self.linear = linear
        self.lora_a = jax.random.normal(key, (rank, width), dtype) * width**-0.5
        self.lora_b = jnp.zeros((out, rank), dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(x) + self.lora_b @ (self.lora_a @ x)


def add_lora(model: eqx_clip.CLIP, rank: int, *, key: jax.Array) -> eqx_clip.CLIP:
    """`model` with LoRA on both projections of the attention in each block of the image tower."""

    def layers(model: Any) -> tuple[eqx.nn.Linear, eqx.nn.Linear]:
        return model.image.stack.block.attn.qkv, model.image.stack.block.attn.out

    # All blocks are one block whose arrays have depth as first axis: here a bias is (depth, width).
    # Mapped over that axis, `LoRA` is given one layer at a time, and the matrices that it makes
    # get the axis too. The tower then scans over them as over all else.
    @eqx.filter_vmap
    def stacked_lora(linear: eqx.nn.Linear, key: jax.Array) -> LoRA:
        return LoRA(linear, rank, key=key)

    keys = jax.random.split(key, (2, len(image_tower(model).stack)))
    return eqx.tree_at(layers, model, tuple(map(stacked_lora, layers(model), keys)))


def train_lora(model: eqx_clip.CLIP, data: Data) -> eqx_clip.CLIP:
    """Trains the thin matrices and nothing else, towards the features of the texts."""
    adapted = add_lora(model, rank=4, key=jax.random.key(0))
    trains = jax.tree_util.tree_map_with_path(
        lambda path, _: "lora_" in jax.tree_util.keystr(path), adapted
    )
    texts = encode_texts(model, data.tokens)
    adapted = fit(adapted, trains, image_loss, data.images, texts, rate=1e-2)
    count = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(adapted, trains)))
    before, after = (zero_shot(either, data.unseen, texts) for either in (model, adapted))
    print(f"LoRA: {before} -> {after} of unseen images right, by {count:,} new numbers")
    return adapted


# 3. LoRA merged into plain weights, and saved: OpenCLIP loads the folder as `local-dir:...`


def merge_lora(model: ModelT) -> ModelT:
    """`model` with a plain linear layer in the place of each `LoRA`."""

    def plain(node: Any) -> Any:
        if not isinstance(node, LoRA):
            return node
        # Over the depth axis too. In full precision even where a GPU or TPU would round, since
        # this product is made once, and stays.
        product = jnp.matmul(node.lora_b, node.lora_a, precision="highest")
        return eqx.tree_at(lambda layer: layer.weight, node.linear, node.linear.weight + product)

    return jax.tree.map(plain, model, is_leaf=lambda node: isinstance(node, LoRA))


def merge_and_save(adapted: eqx_clip.CLIP, data: Data, folder: Path) -> eqx_clip.CLIP:
    merged = merge_lora(adapted)
    eqx_clip.save(merged, folder)
    theirs, ours = (encode_images(either, data.unseen) for either in (adapted, merged))
    difference = np.abs(theirs - ours).max()
    print(f"merged: saved in {folder}, features differ from LoRA's by at most {difference:.0e}")
    return merged


# 4. LiT (https://arxiv.org/abs/2111.07991): one tower locked


def train_text_tower(model: eqx_clip.CLIP, data: Data) -> eqx_clip.CLIP:
    """Trains the text tower and the temperature; the image tower stays as it is."""
    trains = only(model, lambda model: (model.text, model.logit_scale))
    images = encode_images(model, data.images)  # computed once, since they cannot change
    tuned = fit(model, trains, text_loss, data.tokens, images)
    before, after = (
        zero_shot(either, data.unseen, encode_texts(either, data.tokens))
        for either in (model, tuned)
    )
    locked = "equal to the bit" if eqx.tree_equal(tuned.image, model.image) else "not locked"
    print(f"LiT: {before} -> {after} of unseen images right, the image tower {locked}")
    return tuned


# 5. WiSE-FT (https://arxiv.org/abs/2109.01903): a model and its fine-tuned self averaged


def average(a: ModelT, b: ModelT, alpha: float) -> ModelT:
    """`(1 - alpha) a + alpha b`, leaf by leaf: models are PyTrees."""
    return jax.tree.map(lambda x, y: (1 - alpha) * x + alpha * y, a, b)


def average_checkpoints(model: eqx_clip.CLIP, data: Data) -> eqx_clip.CLIP:
    """On images unlike those of the fine-tuning, the average is often better than either."""
    texts = encode_texts(model, data.tokens)
    tuned = fit(model, only(model, lambda model: model.image), image_loss, data.images, texts)
    shares = [
        zero_shot(average(model, tuned, alpha), data.unseen, texts) for alpha in (0.0, 0.5, 1.0)
    ]
    print(f"WiSE-FT: {', '.join(shares)} of unseen images right at alpha = 0, 0.5, 1")
    return average(model, tuned, 0.5)


# What they have in common


def fit(
    model: ModelT, trains: Any, loss: Callable[..., jax.Array], *data: Any, rate: float = 1e-3
) -> ModelT:
    """`model` after some steps of Adam on the leaves for which `trains` says True.

    `trains` is a tree like the model's, in which one True or False may stand for a whole part. Only
    those leaves have gradients and a state of the optimizer; the others are never written.
    """
    trained, fixed = eqx.partition(model, trains)
    optimizer = optax.adam(rate)

    # The data are arguments: arrays that a compiled function finds elsewhere become constants.
    @eqx.filter_jit
    def step(trained: Any, fixed: Any, opt_state: optax.OptState, *data: Any) -> tuple[Any, Any]:
        grads = eqx.filter_grad(lambda trained: loss(eqx.combine(trained, fixed), *data))(trained)
        updates, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(trained, updates), opt_state

    opt_state = optimizer.init(trained)
    for _ in range(40):
        trained, opt_state = step(trained, fixed, opt_state, *data)
    return eqx.combine(trained, fixed)


def only(model: ModelT, where: Callable[[ModelT], Any]) -> Any:
    """A tree for `fit`: True for the parts that `where` picks, False elsewhere."""
    nothing = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(where, nothing, replace_fn=lambda _: True)


@eqx.filter_jit
def encode_images(model: eqx_clip.CLIP, images: np.ndarray) -> jax.Array:
    return jax.vmap(model.encode_image)(images)


@eqx.filter_jit
def encode_texts(model: eqx_clip.CLIP, tokens: np.ndarray) -> jax.Array:
    return jax.vmap(model.encode_text)(tokens)


def image_loss(model: eqx_clip.CLIP, images: np.ndarray, text_features: jax.Array) -> jax.Array:
    return eqx_clip.clip_loss(encode_images(model, images), text_features, model.scale)


def text_loss(model: eqx_clip.CLIP, tokens: np.ndarray, image_features: jax.Array) -> jax.Array:
    return eqx_clip.clip_loss(image_features, encode_texts(model, tokens), model.scale)


def zero_shot(model: eqx_clip.CLIP, images: np.ndarray, text_features: jax.Array) -> str:
    return share_right(model.logits(encode_images(model, images), text_features))


def share_right(logits: jax.Array) -> str:
    return f"{np.mean(logits.argmax(axis=1) == np.arange(len(logits))):.0%}"


def image_tower(model: eqx_clip.CLIP) -> eqx_clip.VisionTransformer:
    if isinstance(model.image, eqx_clip.VisionTransformer):
        return model.image
    kind = type(model.image).__name__
    raise ValueError(f"This example is for vision transformers; the image tower is a {kind}.")


def make_data(model: eqx_clip.CLIP) -> Data:
    """Two noisy images of each colour, one to learn from, and a text about it."""
    noise = np.random.default_rng(0).integers(-40, 41, (2, len(COLOURS), 32, 32, 3))
    pixels = np.array(list(COLOURS.values()))[:, None, None] + noise
    images, unseen = (
        np.stack([model.preprocess(image.astype(np.uint8)) for image in half]) for half in pixels
    )
    return Data(images, unseen, model.tokenize([f"all of it is {name}" for name in COLOURS]))


def main(model: eqx_clip.CLIP, folder: Path) -> None:
    tower, data = image_tower(model), make_data(model)
    folder.mkdir(parents=True, exist_ok=True)  # fails now if it can't be one
    build_classifier(tower, data)
    merge_and_save(train_lora(model, data), data, folder)
    train_text_tower(model, data)
    average_checkpoints(model, data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Builds five small things from CLIP's towers.")
    parser.add_argument(
        "--model", help="a registered name, a folder, or hf-hub:... (default: small and random)"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("lora-merged"), help="to save in (%(default)s)"
    )
    arguments = parser.parse_args()
    try:
        if arguments.model is None:
            model = eqx_clip.create("vit-nano-patch32", key=jax.random.key(0))
        else:
            model = eqx_clip.load(arguments.model)
        main(model, arguments.folder)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
