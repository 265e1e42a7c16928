"""Statistics of batch normalisation in training: they are carried along, and never moved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_RESNET, images_for, tiny

from eqx_clip import sharding, train
from eqx_clip.nn.batch_norm import buffers


@pytest.mark.parametrize("fsdp", [1, 2])
def test_a_step_trains_all_but_the_buffers(fsdp):
    model = tiny(TINY_RESNET)
    mesh = sharding.make_mesh(4 // fsdp, fsdp)
    optimizer = train.adamw(1e-3)
    options = {"dtype": jnp.bfloat16, "remat": "full", "ema_decay": 0.9}
    step = train.make_train_step(optimizer, mesh, **options)
    state = train.init_state(model, optimizer, mesh, ema=True)
    tokens = model.tokenize(["a cat", "a dog", "a bus", "snow"])
    for _ in range(2):
        state, _ = step(state, {"image": images_for(model, 4), "tokens": tokens})
    flags = jax.tree.leaves(buffers(model.image))
    # The bias of the keys adds the same to all scores: it has no gradient.
    paths = [path for path, _ in jax.tree.leaves_with_path(model.image)]
    still = ["k_proj.bias" in jax.tree_util.keystr(path) for path in paths]
    for trained in (state.model, state.ema):
        pairs = zip(jax.tree.leaves(model.image), jax.tree.leaves(trained.image), strict=True)
        kept = [bool(np.array_equal(a, b)) for a, b in pairs]
        assert all(same for same, flag in zip(kept, flags, strict=True) if flag)
        fixed = [flag or other for flag, other in zip(flags, still, strict=True)]
        assert not any(same for same, flag in zip(kept, fixed, strict=True) if not flag)
