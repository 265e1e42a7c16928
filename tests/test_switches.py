"""JAX's switches, with which people debug: what computes runs under each of them."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_model, smallest_configs

import eqx_clip
from eqx_clip import train


# What changes when a program is traced; it need not be run.
OF_TRACING = {
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_check_tracer_leaks": True,
    "jax_check_static_indices": True,
    "jax_debug_key_reuse": True,
    "jax_default_matmul_precision": "highest",
    "jax_explicit_x64_dtypes": "error",
    "jax_legacy_prng_key": "error",
    "jax_softmax_custom_jvp": False,
    "jax_threefry_partitionable": False,
    "jax_traceback_filtering": "off",
    "jax_use_direct_linearize": False,
}
OF_RUNNING = {
    "jax_debug_infs": True,
    "jax_debug_nans": True,
    "jax_default_prng_impl": "rbg",
    "jax_disable_jit": True,
    "jax_enable_checks": True,
    "jax_enable_x64": True,
    "jax_explain_cache_misses": True,
    "jax_log_compiles": True,
    "jax_transfer_guard": "disallow",
}


@contextlib.contextmanager
def switched(name, value):
    old = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, old)


@pytest.fixture(scope="module", autouse=True)
def programs_are_compiled_quickly():
    with switched("jax_disable_most_optimizations", True):
        yield


@pytest.fixture(autouse=True)
def nothing_is_traced_yet():
    jax.clear_caches()


def make_batch():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 3, 16, 16), np.uint8)
    return {"image": pixels, "tokens": rng.integers(1, 64, (4, 8)).astype(np.int32)}


def compute(model, step, state, batch):
    images = np.asarray(model.preprocess.normalize(batch["image"]))
    model.encode_image(images[0])
    model.encode_text(batch["tokens"][0])
    eqx_clip.embed_images(model, list(batch["image"].transpose(0, 2, 3, 1)), batch_size=4)
    train.retrieval_metrics(*jax.device_get(train.make_eval_step()(model, batch)))
    state, metrics = step(state, batch)
    assert np.isfinite(jax.device_get(metrics["loss"]))


OPTIONS = {
    "vit": {"patch_dropout": 0.5, "accumulate": 2, "dtype": "bfloat16"},
    "convnext": {"dtype": "float16", "remat": "full"},
}


CASES = [(name, "vit") for name in OF_TRACING] + [
    (f"jax_numpy_{kind}_promotion", "convnext") for kind in ("dtype", "rank")
]


@pytest.mark.parametrize(("name", "tower"), CASES)
def test_towers_and_steps_are_traced_under_a_switch(name, tower):
    with switched(name, OF_TRACING[name]):
        batch, options, optimizer = make_batch(), OPTIONS[tower], train.adamw(1e-3)
        half = options["dtype"] == "float16"

        def start(key):
            model = smallest_configs()[tower].build(key=key)
            return train.init_state(model, optimizer, ema=True, key=key, scale_loss=half)

        state = eqx.filter_eval_shape(start, jax.random.key(0))
        train.make_train_step(optimizer, ema_decay=0.9, **options).lower(state, batch)
        jax.eval_shape(train.make_eval_step(), state.model, batch)
        images = state.model.preprocess.normalize(batch["image"])
        eqx.filter_eval_shape(
            lambda model, x: jax.vmap(model.image.features)(x), state.model, images
        )
        eqx.filter_eval_shape(
            lambda model, x: jax.vmap(model.text.intermediates)(x), state.model, batch["tokens"]
        )


@pytest.mark.parametrize("name", OF_RUNNING)
def test_towers_and_steps_run_under_a_switch(name, caplog):
    model, optimizer = random_model(smallest_configs()["vit"]), train.adamw(1e-3)
    state = train.init_state(model, optimizer, ema=True, key=jax.random.key(0))
    step = train.make_train_step(optimizer, ema_decay=0.9, patch_dropout=0.5)
    with switched(name, OF_RUNNING[name]):
        compute(model, step, state, make_batch())


@pytest.mark.parametrize("name", ["jax_transfer_guard", "jax_enable_x64"])
def test_texts_are_embedded_and_compared_under_a_switch(name):
    text = eqx_clip.TextConfig(width=8, depth=1, num_heads=1, embed_dim=12)
    config = smallest_configs()["vit"]
    model = random_model(
        eqx_clip.CLIPConfig(image=config.image, text=text, preprocess=config.preprocess)
    )
    pictures = list(np.zeros((2, 9, 9, 3), np.uint8))
    with switched(name, OF_RUNNING[name]):
        eqx_clip.CLIPInference(model)(pictures, ["a", "b"])
        classifier = np.asarray(eqx_clip.zero_shot_classifier(model, ["a", "b"], ["a {}"]))
        train.zero_shot_accuracy(model, pictures, np.array([0, 1]), classifier, progress=False)
    assert classifier.dtype == np.float32


@pytest.mark.parametrize("loss", [eqx_clip.clip_loss, eqx_clip.siglip_loss])
@pytest.mark.parametrize("name", ["jax_numpy_dtype_promotion", "jax_numpy_rank_promotion"])
@pytest.mark.parametrize("method", [None, "ring", "gather"])
def test_losses_and_their_gradients_promote_nothing(loss, name, method):
    scalars = (9.0,) if loss is eqx_clip.clip_loss else (9.0, -1.0)
    features = jnp.ones((8, 3), jnp.bfloat16)

    def value(images, texts):
        return loss(images, texts, *scalars, **({} if method is None else options))

    if method is not None:
        mesh, P = jax.make_mesh((4,), ("d",)), jax.P
        options = {"axis_name": "d", "method": method}
        value = jax.shard_map(value, mesh=mesh, in_specs=(P("d"), P("d")), out_specs=P())
        features = jax.device_put(features, jax.NamedSharding(mesh, P("d")))
    with switched(name, OF_TRACING[name]):
        jax.eval_shape(jax.jit(jax.grad(value)), features, features)
