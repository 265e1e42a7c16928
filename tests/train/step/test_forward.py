"""What a step computes features by: the model's own methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import images_for, random_model, smallest_configs

from eqx_clip import CLIP, train


class Shifted(CLIP):
    """A model that encodes images in a way of its own."""

    def encode_image(self, image, *, normalize=True):
        return super().encode_image(image + 1, normalize=normalize)


@pytest.mark.parametrize("patch_dropout", [0.0, 0.5])
def test_a_subclass_is_trained_by_its_own_encode_image(patch_dropout):
    base = random_model(smallest_configs()["vit"])
    fields = ("image", "text", "logit_scale", "logit_bias", "preprocess", "tokenizer")
    shifted = Shifted(**{name: getattr(base, name) for name in fields})
    images = images_for(base, 4)
    tokens = np.random.default_rng(0).integers(1, 64, (4, 8), np.int32)
    optimizer = train.adamw(1e-3)
    step = train.make_train_step(optimizer, patch_dropout=patch_dropout)

    def loss(model, images):
        state = train.init_state(model, optimizer, key=jax.random.key(0))
        return float(step(state, {"image": jnp.asarray(images), "tokens": tokens})[1]["loss"])

    assert loss(shifted, images) == pytest.approx(loss(base, images + 1), rel=1e-6)
    assert loss(shifted, images) != pytest.approx(loss(base, images), rel=1e-6)
