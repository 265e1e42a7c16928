"""Trains CLIP, from one CPU to every worker of a TPU pod slice.

    python examples/train.py --train-path train.csv --valid-path valid.csv \\
        --image-key image_path --text-key caption --global-batch-size 128 \\
        --model-name vit-base-patch32 --learning-rate 1e-3 --n-epochs 30

The same command goes to every process of a run. On TPU pods and under Slurm they find each other;
elsewhere tell them by --coordinator-address, --num-processes and --process-id. A run that was
stopped, by SIGTERM, a dead peer or kill -9, goes on with --resume-from-checkpoint latest, bit for
bit. `--plan` says what a run would take, and trains nothing; `--help` has all options.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import eqx_clip
from eqx_clip import sharding, train
from eqx_clip.data import AbstractSource, Batches, batches, open_classes, open_source


# --- Options ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Data:
    """Data: a CSV, TFRecord or tar files, Parquet, ..., here or in a bucket."""

    train_path: str | None = None
    """What to train on; without it the model is only evaluated."""
    valid_path: str | None = None
    """What to validate on, after every epoch."""
    train_n_samples: int | None = None
    """Train on the first so many examples. By default all: they are counted."""
    valid_n_samples: int | None = None
    """Validate on the first so many."""
    image_key: str | None = None
    """The column or feature of the images; by default the usual names are looked for."""
    text_key: str | None = None
    """That of the captions."""
    global_batch_size: int = 64
    """Of all devices of all processes together."""
    shuffle_buffer_size: int | None = None
    """Not used any more: every epoch is shuffled as a whole."""
    workers: int = 0
    """Processes that decode, on each host; 0: a thread."""
    augment_scale: tuple[float, float] = (0.9, 1.0)
    """The share of an image's area that a random crop has."""
    draft: int | None = None
    """Decode large JPEGs at a fraction of their size: 2 or 1 times the model's. Faster, inexact."""
    zero_shot_path: str | None = None
    """A folder of classes, or one of TFDS, for zero-shot accuracy after every epoch."""
    zero_shot_templates: tuple[str, ...] = ("a photo of a {}.",)
    """What classes are named in."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Model."""

    model_name: str = "vit-base-patch32"
    """An architecture's name, a JSON file in OpenCLIP's format, or a folder with a model."""
    pretrained: str | None = None
    """Weights to begin with: a tag, or a safetensors file."""
    image_size: int | None = None
    """In pixels; by default the model's own."""
    context_len: int | None = None
    """Tokens of a text; by default the model's own."""
    temp_init: float | None = None
    """The log of the temperature at the start; by default the model's own, log(1 / 0.07)."""
    siglip: bool = False
    """The sigmoid loss, with a bias of -10 and a temperature of log(10) at the start."""
    grad_checkpoint: bool = False
    """The same as --remat full."""
    remat: Literal["none", "dots", "full"] = "none"
    """What blocks keep for the gradient: all, the outputs of linear layers, or their input only."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the towers compute in. Parameters and optimizer are float32."""
    patch_dropout: float = 0.0
    """Leave out this share of each image's patches."""
    lock_image: int | None = None
    """Lock the image tower but for its last so many groups of layers; 0: all of it."""
    lock_text: int | None = None
    """Lock the text tower, likewise."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Optimizer: AdamW."""

    learning_rate: float = 5e-4
    """The highest; it is not scaled by the batch size."""
    learning_rate_scheduler: Literal["cosine", "const"] = "cosine"
    """What follows the warmup."""
    n_warmup_steps: int = 10_000
    """Steps in which the rate rises. If they are not fewer than the run's: a tenth of those."""
    warmup_init: float = 1e-5
    """The rate from which it rises."""
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.2
    layer_decay: float | None = None
    """Multiplies the rate of each layer below another by this much."""
    grad_clip_norm: float | None = None
    """Scale gradients down to this norm."""
    accumulate: int = 1
    """Compute a batch in so many parts, with the negatives of the whole."""
    ema_decay: float | None = None
    """Keep a moving average of the parameters, which is evaluated and exported."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Run."""

    n_epochs: int = 32
    seed: int = 0
    """Of the model, the order of examples, crops and patch dropout."""
    log_freq: int = 100
    """Steps between two lines of the log."""
    checkpoint_dir: str | None = None
    """Where checkpoints and logs go; by default a new folder, checkpoints/<date>_<model>."""
    checkpoint_freq: int = 1
    """Epochs between two checkpoints; 0: none but the last."""
    checkpoint_steps: int | None = None
    """Or steps."""
    checkpoint_minutes: float | None = None
    """Or minutes."""
    checkpoint_keep: int = 5
    """The newest so many are kept."""
    resume_from_checkpoint: str | None = None
    """A run's folder, one of its checkpoints, or "latest"."""
    export_dir: str | None = None
    """Where the model goes in OpenCLIP's format; by default checkpoint_dir/open_clip, if local."""
    tensorboard: bool = False
    """Log to checkpoint_dir/tensorboard, too."""
    wandb_project: str | None = None
    """Log to Weights & Biases, too."""
    profile_steps: int = 0
    """Record a profile of so many steps, from the tenth on, in checkpoint_dir/profile."""
    mesh: tuple[int, int] | None = None
    """Devices along "data" and "fsdp"; by default all along "data"."""
    coordinator_address: str | None = None
    """Host and port of process 0, where the environment does not say it."""
    num_processes: int | None = None
    process_id: int | None = None
    step_timeout: float = 600.0
    """Seconds after which a step is taken to hang, and the process ends."""
    plan: bool = False
    """Say what the run would take, and train nothing."""


@dataclasses.dataclass(frozen=True)
class Options:
    data: Data = Data()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    run: Run = Run()


# --- Training --------------------------------------------------------------------------------


def main(options: Options) -> None:
    run = options.run
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("eqx_clip").setLevel(logging.INFO)
    train.initialize(run.coordinator_address, run.num_processes, run.process_id)
    first = jax.process_index() == 0
    logger = logging.getLogger("train")
    logger.setLevel(logging.INFO if first else logging.ERROR)
    for group in dataclasses.asdict(options).values():
        for name, value in group.items():
            logger.info("%s: %s", name.replace("_", "-"), value)

    mesh = sharding.make_mesh(*(run.mesh or (None, 1)))
    check(options, mesh)
    model = build(options, skeleton=True)
    feeds = {}
    for what in ("train", "valid"):
        if getattr(options.data, f"{what}_path") is not None:
            source = opened(options, what)
            batch = next(feed(options, what, source, model, workers=0))  # what is wrong shows here
            logger.info("%s: %d examples, %d a batch", what, len(source), len(batch["index"]))
            feeds[what] = source
    if not feeds and options.data.zero_shot_path is None:
        raise ValueError("There is nothing to do: give --train-path, --valid-path, or both.")

    steps_per_epoch = total = 0
    if "train" in feeds:
        steps_per_epoch = len(feeds["train"]) // options.data.global_batch_size
        total = run.n_epochs * steps_per_epoch
    train.check_same(
        global_batch_size=options.data.global_batch_size,
        seed=run.seed,
        total_steps=total,
        valid_examples=len(feeds.get("valid", ())),
    )
    optimizer, schedule = make_optimizer(options, total)
    step = make_step(options, optimizer, model, mesh)
    make_state = functools.partial(
        train.init_state,
        optimizer=optimizer,
        key=jax.random.key(run.seed),
        ema=options.optimizer.ema_decay is not None,
        scale_loss=options.model.dtype == "float16",
    )
    if run.plan:
        sizes = {"batch_size": options.data.global_batch_size, "total_steps": total}
        for name, value in train.plan(model, make_state, step, mesh, **sizes).items():
            print(f"{name}: {value}")
        return

    name = Path(options.model.model_name).stem
    folder = train.run_folder(name, run.checkpoint_dir, run.resume_from_checkpoint)
    if is_new(options.model):
        model = build(options)
    state = make_state(model, mesh=mesh)
    config = {  # what must be equal for a run to go on
        "model": {"name": options.model.model_name, "siglip": options.model.siglip},
        "context_length": model.tokenizer.context_length,
        "preprocess": model.preprocess,
        "optimizer": dataclasses.replace(options.optimizer, accumulate=1),
        "data": {"batch_size": options.data.global_batch_size, "seed": run.seed},
        "steps": total,
    }
    with train.Checkpointer(folder.path, config=config, keep=run.checkpoint_keep) as checkpointer:
        if folder.resumes:
            state = checkpointer.restore(state, folder.step)
            logger.info("resumed at step %d from %s", int(state.step), folder.path)
        elif total and checkpointer.latest() is not None:
            raise ValueError(
                f"{folder.path} holds the checkpoints of another run: go on with it by "
                "--resume-from-checkpoint latest, or say another --checkpoint-dir."
            )
        if total:
            logger.info("%d steps, checkpoints in %s", total, folder.path)
            logger.info("chance level of the loss, ln(batch): %.4f", chance(options))
            state = fit(options, state, step, schedule, feeds, mesh, checkpointer, total)
        else:
            print(json.dumps(evaluate(options, state, feeds, mesh), indent=2) if first else "")
    if total:
        export(options, state, folder.path)


def check(options: Options, mesh: Any) -> None:
    """Refuses what cannot work, before anything is read."""
    data, of_model = options.data, options.model
    sharding.check_batch_size(data.global_batch_size, mesh, options.optimizer.accumulate)
    if data.shuffle_buffer_size is not None:
        logging.warning("--shuffle-buffer-size has no use any more: epochs are shuffled whole.")
    platform = mesh.devices.flat[0].platform
    if of_model.dtype == "float16" and platform == "tpu":
        raise ValueError("TPUs do not compute in float16: use --dtype bfloat16.")
    if options.run.n_epochs < 1:
        raise ValueError(f"--n-epochs must be at least 1; got {options.run.n_epochs}.")


def build(options: Options, *, skeleton: bool = False) -> eqx_clip.CLIP:
    """The model to begin with; as a skeleton its shapes, preprocessing and tokenizer only."""
    model = options.model
    sizes = {"image_size": model.image_size, "context_length": model.context_len}
    if not is_new(model):
        loaded = eqx_clip.load(model.model_name, model.pretrained, **sizes)
        return with_start(loaded, model)
    config: Any = model.model_name
    if config.endswith(".json"):
        config = json.loads(Path(config).read_text())
        config = config.get("model_cfg", config)

    def make(key: jax.Array) -> eqx_clip.CLIP:
        return with_start(eqx_clip.create(config, key=key, **sizes), model)

    key = jax.random.key(options.run.seed)
    return eqx.filter_eval_shape(make, key) if skeleton else make(key)


def is_new(model: Model) -> bool:
    return model.pretrained is None and not Path(model.model_name).is_dir()


def with_start(model: eqx_clip.CLIP, options: Model) -> eqx_clip.CLIP:
    """The temperature and the bias that training begins with."""
    scale = math.log(10) if options.siglip and options.pretrained is None else None
    scale = options.temp_init if options.temp_init is not None else scale
    if scale is not None:
        new = jnp.asarray(scale, jnp.float32)
        model = eqx.tree_at(lambda model: model.logit_scale, model, new)
    if options.siglip and model.logit_bias is None:
        bias = jnp.asarray(-10.0, jnp.float32)
        model = eqx.tree_at(lambda m: m.logit_bias, model, bias, is_leaf=lambda x: x is None)
    return model


def opened(options: Options, what: str) -> AbstractSource:
    data = options.data
    path, count = getattr(data, f"{what}_path"), getattr(data, f"{what}_n_samples")
    return open_source(path, image_key=data.image_key, text_key=data.text_key, n_samples=count)


def feed(
    options: Options,
    what: str,
    source: AbstractSource,
    model: eqx_clip.CLIP,
    *,
    start_step: int = 0,
    workers: int | None = None,
) -> Batches:
    data, preprocess = options.data, model.preprocess
    training = what == "train"
    if training:
        preprocess = eqx_clip.Augment(
            preprocess.image_size,
            preprocess.mean,
            preprocess.std,
            scale=data.augment_scale,
            draft=data.draft,
        )
    return batches(
        source,
        batch_size=data.global_batch_size,
        preprocess=preprocess,
        tokenizer=model.tokenizer,
        seed=options.run.seed,
        shuffle=training,
        epochs=options.run.n_epochs if training else 1,
        drop_remainder=training,
        start_step=start_step,
        num_workers=data.workers if workers is None else workers,
    )


def make_optimizer(
    options: Options, total: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    of = options.optimizer
    warmup = of.n_warmup_steps
    if total and warmup >= total:
        logging.warning(
            "A warmup of %d steps is as long as the run, %d steps, or longer: taking %d. Say "
            "--n-warmup-steps.",
            *(warmup, total, total // 10),
        )
        warmup = total // 10
    rise = {"warmup_steps": warmup, "warmup_init": of.warmup_init}
    if of.learning_rate_scheduler == "cosine" and total:
        schedule = train.cosine_schedule(of.learning_rate, total_steps=total, **rise)
    else:
        schedule = train.constant_schedule(of.learning_rate, **rise)
    optimizer = train.adamw(
        schedule,
        b1=of.beta1,
        b2=of.beta2,
        eps=of.eps,
        weight_decay=of.weight_decay,
        layer_decay=of.layer_decay,
    )
    if of.grad_clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(of.grad_clip_norm), optimizer)
    return optimizer, schedule


def make_step(
    options: Options, optimizer: optax.GradientTransformation, model: eqx_clip.CLIP, mesh: Any
) -> train.TrainStep:
    of = options.model
    locked = None
    if of.lock_image is not None or of.lock_text is not None:
        locked = train.trainable(model, image_groups=of.lock_image, text_groups=of.lock_text)
    return train.make_train_step(
        optimizer,
        mesh,
        loss="siglip" if of.siglip else "clip",
        accumulate=options.optimizer.accumulate,
        dtype=None if of.dtype == "float32" else jnp.dtype(of.dtype),
        remat="full" if of.grad_checkpoint else of.remat,
        patch_dropout=of.patch_dropout,
        ema_decay=options.optimizer.ema_decay,
        trainable=locked,
    )


def fit(
    options: Options,
    state: train.TrainState,
    step: train.TrainStep,
    schedule: optax.Schedule,
    sources: dict[str, AbstractSource],
    mesh: Any,
    checkpointer: train.Checkpointer,
    total: int,
) -> train.TrainState:
    """Every step that is left, with checkpoints, evaluation and logs."""
    run, batch_size, folder = options.run, options.data.global_batch_size, checkpointer.folder
    steps_per_epoch, start = total // run.n_epochs, int(state.step)
    due = train.SaveSchedule(
        steps=run.checkpoint_steps or (run.checkpoint_freq * steps_per_epoch or None),
        minutes=run.checkpoint_minutes,
    )
    with contextlib.ExitStack() as stack:
        console = train.Console(total, start_step=start)
        stack.callback(console.close)
        loggers = [console, *make_loggers(options, folder, start)]
        for logger in loggers[1:]:
            stack.callback(logger.close)
        data = stack.enter_context(
            feed(options, "train", sources["train"], state.model, start_step=start)
        )
        ready = train.prefetch(data, mesh, text=state.model.text)
        stack.callback(ready.close)  # pyright: ignore[reportAttributeAccessIssue]
        preemption = stack.enter_context(train.Preemption())
        watchdog = stack.enter_context(
            train.Watchdog(limit=run.step_timeout, first_limit=max(3600.0, run.step_timeout))
        )
        meter, before = train.Meter(), None
        watchdog.beat("the first step")
        for i, batch in enumerate(meter.waits(ready), start):
            watchdog.beat(f"step {i}")
            profile(run, folder, i - start)
            state, metrics = step(state, batch)
            meter.count(batch_size)
            if before is not None:  # the step before: this one is still being computed
                check_loss(*before, sources["train"], checkpointer)
            before, done = (i, metrics, batch["index"]), i + 1
            if i == start or done % run.log_freq == 0 or done == total:
                values = {name: float(value) for name, value in metrics.items()}
                values |= {"learning_rate": float(schedule(i)), "chance": chance(options)}
                values |= meter.read() if i > start else {}
                for logger in loggers:
                    logger.log(i, values)
                if i == start:
                    meter.reset()  # compiling is no training
            console.advance(i)
            stop = preemption.should_stop(done)
            if stop or done == total or due.due(done):
                check_loss(*before, sources["train"], checkpointer)
                watchdog.beat(f"the checkpoint of step {done}", limit=3600)
                checkpointer.save(done, state)
                meter.reset()
            if stop:
                checkpointer.close()
                sys.exit(0)
            if done % steps_per_epoch == 0:
                watchdog.beat(f"the evaluation after step {done}", limit=36000)
                values = evaluate(options, state, sources, mesh)
                for logger in loggers if values else ():
                    logger.log(i, values)
                meter.reset()
            watchdog.beat(f"the batch of step {done}")
    return state


def check_loss(
    step: int,
    metrics: train.Metrics,
    index: np.ndarray,
    source: AbstractSource,
    checkpointer: train.Checkpointer,
) -> None:
    loss = float(metrics["loss"])
    if math.isfinite(loss):
        return
    records = ", ".join(source.where(int(i)) for i in index[:16])
    raise FloatingPointError(
        f"The loss of step {step} is {loss}. The last good checkpoint in {checkpointer.folder} is of step "
        f"{checkpointer.latest()}. Records of the batch in this process: {records}"
        f"{', ...' if len(index) > 16 else ''}. Lower the learning rate, or look at the data."
    )


def evaluate(
    options: Options, state: train.TrainState, sources: dict[str, AbstractSource], mesh: Any
) -> dict[str, float]:
    """Validation loss, retrieval and zero-shot accuracy, of the moving average if there is one."""
    model = state.model if state.ema is None else state.ema
    values: dict[str, float] = {}
    if "valid" in sources:
        eval_step = evaluation_step(mesh)
        with feed(options, "valid", sources["valid"], model) as data:
            found = train.validate(
                lambda model, batch: eval_step(model, sharding.global_batch(batch, mesh)),
                model,
                data,
                batch_size=options.data.global_batch_size,
            )
        values |= {f"val/{name}": value for name, value in found.items()}
    if options.data.zero_shot_path is not None:
        here = train.on_one_device(model)
        classes = open_classes(options.data.zero_shot_path)
        classifier = eqx_clip.zero_shot_classifier(
            here, classes.class_names, options.data.zero_shot_templates
        )
        found = train.zero_shot_accuracy(
            here, classes.images, classes.labels, classifier, progress=False
        )
        values |= {f"zero_shot/{name}": value for name, value in found.items()}
    return values


@functools.cache
def evaluation_step(mesh: Any) -> Any:
    """Compiled once."""
    return train.make_eval_step(mesh)


def chance(options: Options) -> float:
    return math.log(options.data.global_batch_size)


def make_loggers(options: Options, folder: str, start: int) -> Iterator[train.Logger]:
    """On the first process: JSON lines, and what is asked for."""
    run = options.run
    if jax.process_index():
        return
    if "://" not in folder:
        os.makedirs(folder, exist_ok=True)
        yield train.JSONLines(Path(folder, "log.jsonl"), start_step=start)
    if run.tensorboard:
        yield train.TensorBoard(os.path.join(folder, "tensorboard"), start_step=start)
    if run.wandb_project is not None:
        name = os.path.basename(folder.rstrip("/"))
        config = dataclasses.asdict(options)
        yield train.WandB(run.wandb_project, run_id=name, config=config)


def profile(run: Run, folder: str, steps: int) -> None:
    if run.profile_steps and steps == 10:
        jax.profiler.start_trace(os.path.join(folder, "profile"))
    if run.profile_steps and steps == 10 + run.profile_steps:
        jax.profiler.stop_trace()


def export(options: Options, state: train.TrainState, folder: str) -> None:
    """The model, or its moving average, in OpenCLIP's format."""
    to = options.run.export_dir or (None if "://" in folder else os.path.join(folder, "open_clip"))
    model = train.on_one_device(state.model if state.ema is None else state.ema)
    if to is not None and jax.process_index() == 0:
        eqx_clip.save(model, to)
        logging.getLogger("train").info("saved in OpenCLIP's format: %s", to)


if __name__ == "__main__":
    parsed = tyro.cli(
        Annotated[Options, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff],
        description=__doc__,
    )
    try:
        main(parsed)
    except (ValueError, FileNotFoundError, FloatingPointError, ImportError) as error:
        if jax.distributed.is_initialized():
            raise
        sys.exit(f"error: {error}")
