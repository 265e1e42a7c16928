"""Training against OpenCLIP and torch: parameter groups, schedules, loss, and fifty steps."""

import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_CONVNEXT, TINY_SIGLIP2, TINY_VIT, images_for
from models import oracle_config, oracle_model, state_dict, tokens_for
from open_clip_train import scheduler
from oracle import open_clip, torch

import eqx_clip
from eqx_clip import train
from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.format import OPEN_CLIP
from eqx_clip.checkpoints.rows.state_dict import entries


def openclip_decays(name: str, parameter: torch.Tensor) -> bool:
    """The rule of `open_clip_train.main`, as it stands there."""
    excluded = (
        parameter.ndim < 2
        or "bn" in name
        or "ln" in name
        or "bias" in name
        or "logit_scale" in name
    )
    return not excluded


def our_groups(model: eqx_clip.CLIP) -> dict[str, bool]:
    mask = jax.tree.leaves(train.weight_decay_mask(model))
    return {
        name: decays
        for row, decays in zip(entries(model, OPEN_CLIP.table(model)), mask, strict=True)
        for name in row.tensors
    }


@pytest.mark.parametrize(
    "config",
    [
        *(TINY_VIT, TINY_CONVNEXT, TINY_SIGLIP2, {**TINY_VIT, "init_logit_bias": -10.0}),
        *("convnext-large-d", "ViT-B-16-SigLIP"),
    ],
    ids=["vit", "convnext", "siglip", "logit_bias", "convnext-large-d", "ViT-B-16-SigLIP"],
)
def test_weight_decay_has_openclips_groups(config):
    if isinstance(config, str):
        config = oracle_config(config)
    config = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.device("meta"):
        oracle = open_clip.CLIP(**config)
    theirs = {name: openclip_decays(name, p) for name, p in oracle.named_parameters()}
    skeleton = eqx.filter_eval_shape(
        config_from_open_clip(config).build,
        key=jax.random.key(0),
    )
    assert our_groups(skeleton) == theirs
    assert any(theirs.values()) and not all(theirs.values())


def openclip_rates(make, base, warmup, steps, *arguments):
    optimizer = types.SimpleNamespace(param_groups=[{"lr": None}])
    adjust = make(optimizer, base, warmup, steps, *arguments)
    return np.array([adjust(step) for step in range(steps)])


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_schedules_equal_openclips(warmup, x64):
    base, steps = 3e-3, 50
    pairs = [
        (
            train.cosine_schedule(base, total_steps=steps, warmup_steps=warmup),
            openclip_rates(scheduler.cosine_lr, base, warmup, steps),
        ),
        (
            train.constant_schedule(base, warmup_steps=warmup),
            openclip_rates(scheduler.const_lr, base, warmup, steps),
        ),
        (
            train.cooldown_schedule(
                base,
                total_steps=steps,
                cooldown_steps=20,
                cooldown_power=2.0,
                cooldown_end=1e-4,
                warmup_steps=warmup,
            ),
            openclip_rates(scheduler.const_lr_cooldown, base, warmup, steps, 20, 2.0, 1e-4),
        ),
    ]
    for ours, theirs in pairs:
        rates = np.array([ours(jnp.asarray(step, jnp.int32)) for step in range(steps)])
        np.testing.assert_allclose(rates, theirs, rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_loss_and_its_gradients_equal_openclips(batch, x64):
    rng = np.random.default_rng(batch)
    image, text = rng.standard_normal((2, batch, 24))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    ours, our_grads = jax.value_and_grad(eqx_clip.clip_loss, argnums=(0, 1, 2))(
        jnp.asarray(image), jnp.asarray(text), jnp.asarray(17.3)
    )
    tensors = [torch.tensor(x, requires_grad=True) for x in (image, text, 17.3)]
    tensors[2] = torch.tensor(17.3, dtype=torch.float64, requires_grad=True)
    theirs = open_clip.ClipLoss()(*tensors)
    theirs.backward()
    assert abs(float(ours) - theirs.item()) < 1e-12
    for mine, tensor in zip(our_grads, tensors, strict=True):
        np.testing.assert_allclose(mine, tensor.grad.numpy(), atol=1e-12)


def openclip_losses(model, batches, *, base, warmup, steps):
    """The loop of `open_clip_train.train`: AdamW in two groups, cosine rate, clamped scale."""
    groups = [
        {"params": [p for n, p in model.named_parameters() if openclip_decays(n, p) is decays]}
        for decays in (False, True)
    ]
    groups[0]["weight_decay"], groups[1]["weight_decay"] = 0.0, 0.2
    optimizer = torch.optim.AdamW(groups, lr=base, betas=(0.9, 0.98), eps=1e-6)
    adjust = scheduler.cosine_lr(optimizer, base, warmup, steps)
    criterion = open_clip.ClipLoss() if model.logit_bias is None else open_clip.loss.SigLipLoss()
    losses, scales = [], []
    for step, (images, tokens) in enumerate(batches):
        adjust(step)
        optimizer.zero_grad()
        features = model(torch.tensor(images).double(), torch.tensor(tokens).long())
        loss = criterion(*features)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        losses.append(loss.item())
        scales.append(model.logit_scale.exp().item())
    return losses, scales


SIGLIP = {**TINY_VIT, "init_logit_bias": -10.0}


@pytest.mark.parametrize(
    ("config", "logit_scale", "steps"),
    [
        *((TINY_VIT, 2.7, 50), (SIGLIP, 2.3, 50), (TINY_SIGLIP2, 2.3, 50)),
        *((TINY_VIT, 4.6051, 10), (TINY_CONVNEXT, 2.7, 10)),
    ],
    ids=["vit", "sigmoid", "siglip", "vit-at-the-bound", "convnext"],
)
def test_steps_with_warmup_equal_torch(config, logit_scale, steps, x64):
    base, warmup = 1e-3, 4
    oracle = oracle_model(config, dtype=torch.float64).eval()
    with torch.no_grad():
        oracle.logit_scale.fill_(logit_scale)
    model = eqx_clip.from_state_dict(config, state_dict(oracle))
    texts = tokens_for(model)[:6]
    batches = [
        (images_for(model, len(texts), seed).astype(np.float64), texts) for seed in range(steps)
    ]

    optimizer = train.adamw(train.cosine_schedule(base, total_steps=steps, warmup_steps=warmup))
    loss = "clip" if model.logit_bias is None else "siglip"
    step = train.make_train_step(optimizer, loss=loss)
    state = train.init_state(model, optimizer)
    ours, scales = [], []
    for images, tokens in batches:
        state, metrics = step(state, {"image": images, "tokens": tokens})
        ours.append(float(metrics["loss"]))
        scales.append(float(jnp.exp(state.model.logit_scale)))

    theirs, their_scales = openclip_losses(oracle, batches, base=base, warmup=warmup, steps=steps)
    np.testing.assert_allclose(ours, theirs, atol=1e-8, rtol=0)
    np.testing.assert_allclose(scales, their_scales, atol=1e-8, rtol=0)
    assert len(set(np.round(ours, 6))) == steps  # the model does change
    for name, tensor in eqx_clip.to_state_dict(state.model).items():
        np.testing.assert_allclose(tensor, oracle.state_dict()[name].numpy(), atol=1e-6)
