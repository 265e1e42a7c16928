"""Statistics of batch normalisation in training: they are carried along, and never moved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import images_for, random_model, smallest_configs

from eqx_clip import ResNetConfig, sharding, train
from eqx_clip.nn.batch_norm import buffers


def test_a_step_trains_all_but_the_buffers():
    tower = ResNetConfig(image_size=32, depths=(1, 2, 1, 1), width=4, num_heads=2, embed_dim=12)
    model = random_model(dataclasses.replace(smallest_configs()["vit"].resize(32), image=tower))
    mesh = sharding.make_mesh(2, 2)
    optimizer = optax.adamw(1e-3, weight_decay=0.5)  # decays whatever it is given
    options = {"dtype": jnp.bfloat16, "remat": "full", "ema_decay": 0.9}
    step = train.make_train_step(optimizer, mesh, **options)
    state = train.init_state(model, optimizer, mesh, ema=True)
    tokens = np.random.default_rng(0).integers(1, 64, (4, 8), np.int32)
    for _ in range(2):
        state, _ = step(state, {"image": images_for(model, 4), "tokens": tokens})
    flags = jax.tree.leaves(buffers(model.image))
    for trained in (state.model, state.ema):
        pairs = zip(jax.tree.leaves(model.image), jax.tree.leaves(trained.image), strict=True)
        kept = [bool(np.array_equal(a, b)) for a, b in pairs]
        assert all(same for same, flag in zip(kept, flags, strict=True) if flag)
        # Some have no gradient: the bias of the keys, and what a ReLU hides from all images.
        moved = [not same for same, flag in zip(kept, flags, strict=True) if not flag]
        assert sum(moved) > 0.8 * len(moved)
