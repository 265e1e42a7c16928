"""Trains CLIP, from one CPU to every worker of a TPU pod slice.

    python examples/train.py --train-path train.csv --valid-path valid.csv \\
        --model-name vit-base-patch32 --global-batch-size 128 --n-epochs 30

The same command goes to every process of a run. On TPU pods and under Slurm they find each other;
elsewhere tell them by --coordinator-address, --num-processes and --process-id. A run that was
stopped, by SIGTERM, a dead peer or kill -9, goes on with --resume-from-checkpoint latest, bit for
bit. `--plan` says what a run would take, and trains nothing; `--help` has all options.

Exit codes: 0, finished. 75, stopped, and to be started again with --resume-from-checkpoint: by a
SIGTERM, after which the state was saved, or since a step hung. (It is sysexits.h's EX_TEMPFAIL;
143 is of a process that SIGTERM killed before it could save.) 1, an error, told in one message,
with --debug in a stack, too. 2, options that are not known or out of range. 134, JAX ended this
process since another one died: go on with --resume-from-checkpoint latest.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Annotated, Any, Literal


try:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax
    import tyro
    from jax.sharding import Mesh

    import eqx_clip
    from eqx_clip import data as datasets
    from eqx_clip import sharding, train
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}. Training needs more than the library: pip install 'eqx_clip[train]'")

STOPPED = 75  # the exit code of a run that can be started again: EX_TEMPFAIL, as `Watchdog`'s

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
    image_root: str | None = None
    """Where the relative paths of tables start; by default at their folders."""
    empty_captions: bool = False
    """Train on empty texts, too. By default they are missing captions."""
    max_bad: float = 0.01
    """The share of examples without a readable image or a caption that ends the run."""
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
    zero_shot_split: str | None = None
    """Of TFDS: "test", "validation[:1000]"."""
    zero_shot_names: str | None = None
    """A file of the classes' names: in order, or beside the names of their folders."""
    zero_shot_templates: tuple[str, ...] = ("a photo of a {}.",)
    """What classes are named in."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Model."""

    model_name: str = "vit-base-patch32"
    """An architecture's name, a JSON file in OpenCLIP's format, or what holds a model with its
    weights: a folder, or hf-hub:<organisation>/<repository>."""
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
    """What blocks keep for the gradient: their own choice, linear outputs, or their input only."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the towers compute in. Parameters and optimizer are float32."""
    patch_dropout: float = 0.0
    """Leave out this share of each image's patches."""
    lock_image: int | None = None
    """Lock the image tower but for its last so many groups of layers; 0: all of it."""
    lock_text: int | None = None
    """Lock the text tower, likewise."""

    @property
    def is_new(self) -> bool:
        has_weights = self.model_name.startswith("hf-hub:") or Path(self.model_name).is_dir()
        return self.pretrained is None and not has_weights


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
    """Steps between two lines of the log; 0: the first and the last."""
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
    """Where the model goes in OpenCLIP's format; by default checkpoint_dir/open_clip."""
    tensorboard: bool = False
    """Log to checkpoint_dir/tensorboard, too."""
    wandb_project: str | None = None
    """Log to Weights & Biases, too."""
    profile_steps: int = 0
    """Profile so many steps, if possible after ten others, into checkpoint_dir/profile."""
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
    debug: bool = False
    """Show where in the code an error arose, not its message alone."""


# Options that must be equal for a run to go on, since its steps would not be the same.
OF_STEP = ("siglip", "dtype", "patch_dropout", "lock_image", "lock_text")
OF_DATA = ("global_batch_size", "augment_scale", "draft", "empty_captions")
# Those that may differ between processes: where they are, and where they find and keep things.
OF_PROCESS = (
    *("coordinator_address", "process_id", "workers", "export_dir"),
    *("train_path", "valid_path", "zero_shot_path", "zero_shot_names", "image_root"),
)
# The least that they may be.
LEAST = {
    **dict.fromkeys(("train_n_samples", "valid_n_samples", "global_batch_size", "n_epochs"), 1),
    **dict.fromkeys(("checkpoint_steps", "checkpoint_keep", "accumulate"), 1),
    **dict.fromkeys(("workers", "lock_image", "lock_text", "n_warmup_steps", "seed"), 0),
    **dict.fromkeys(("log_freq", "checkpoint_freq", "profile_steps"), 0),
    **dict.fromkeys(("learning_rate", "warmup_init", "weight_decay", "grad_clip_norm"), 0),
    **dict.fromkeys(("beta1", "beta2"), 0),
}
BELOW_ONE = ("beta1", "beta2")
ABOVE_ZERO = ("checkpoint_minutes", "step_timeout")
FOLDERS = ("checkpoint_dir", "export_dir")
# The packages whose errors are of the network.
NETWORK = ("aiohttp", "httpcore", "httpcore2", "httpx", "httpx2", "requests", "socket", "urllib3")


@dataclasses.dataclass(frozen=True)
class Options:
    data: Data = Data()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    run: Run = Run()

    def __post_init__(self):
        for name, value in self.by_name.items():
            if value is None:
                continue
            option = f"--{name.replace('_', '-')}"
            if name in LEAST and not value >= LEAST[name]:
                raise ValueError(f"{option} must be at least {LEAST[name]}; got {value}.")
            if name in BELOW_ONE and not value < 1:
                raise ValueError(f"{option} must be less than 1; got {value}.")
            if name in ABOVE_ZERO and not value > 0:
                raise ValueError(f"{option} must be more than 0; got {value}.")
            if name in FOLDERS and Path(value).is_file():
                raise ValueError(f"{option} must be a folder; {value} is a file.")
        data, run = self.data, self.run
        if not (data.train_path or data.valid_path or data.zero_shot_path):
            raise ValueError("There is nothing to do: give --train-path, --valid-path, or both.")
        if data.train_path and data.global_batch_size == 1 and not self.model.siglip:
            raise ValueError(
                "--global-batch-size 1: with the softmax loss a caption is told from the others of "
                "its batch, and here are none, so that the loss is always 0. Give at least 2, or "
                "--siglip."
            )
        if data.train_path is None and run.plan:
            raise ValueError("--plan is one of training: give --train-path.")
        if data.train_path is None and run.resume_from_checkpoint is not None:
            raise ValueError(
                "A checkpoint is resumed to train on: give --train-path. To evaluate a run take "
                "what it exported: --model-name checkpoints/<run>/open_clip."
            )

    @property
    def by_name(self) -> dict[str, Any]:
        groups = (self.data, self.model, self.optimizer, self.run)
        return {name: value for group in groups for name, value in vars(group).items()}

    @property
    def loss(self) -> str:
        return "siglip" if self.model.siglip else "clip"

    @property
    def shared(self) -> dict[str, Any]:
        """What all processes of a run must say alike."""
        return {name: value for name, value in self.by_name.items() if name not in OF_PROCESS}

    @property
    def of_run(self) -> dict[str, Any]:
        """What must be equal for a run to go on."""
        return {
            "step": {name: getattr(self.model, name) for name in OF_STEP},
            "optimizer": dataclasses.replace(self.optimizer, accumulate=1),
            "data": {name: getattr(self.data, name) for name in OF_DATA},
            "seed": self.run.seed,
        }


# --- Training --------------------------------------------------------------------------------

logger = logging.getLogger("train")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What does not change during a run."""

    options: Options
    mesh: Mesh
    source: datasets.AbstractSource
    schedule: optax.Schedule
    step: train.TrainStep
    evaluate: Callable[[eqx_clip.CLIP], dict[str, float]]
    total: int


def main(options: Options) -> None:
    data, run, batch_size = options.data, options.run, options.data.global_batch_size
    train.initialize(run.coordinator_address, run.num_processes, run.process_id)
    first, label = jax.process_index() == 0, f"process {jax.process_index()}"
    logging.basicConfig(format=f"%(asctime)s {label} %(levelname)s %(message)s")
    logging.getLogger("eqx_clip").setLevel(logging.INFO)
    logger.setLevel(logging.INFO if first else logging.ERROR)
    for name, value in options.by_name.items():
        logger.info("%s: %s", name.replace("_", "-"), value)
    if data.shuffle_buffer_size is not None:
        logger.warning("--shuffle-buffer-size has no use any more: epochs are shuffled whole.")

    mesh = sharding.make_mesh(*(run.mesh or (None, 1)))
    sharding.check_batch_size(batch_size, mesh, options.optimizer.accumulate)
    stand_in = SimpleNamespace(preprocess=eqx_clip.Preprocess(), tokenizer=eqx_clip.Tokenizer())
    sources, content = {}, {}
    for split in ("train", "valid"):
        path, count = getattr(data, f"{split}_path"), getattr(data, f"{split}_n_samples")
        if path is not None:
            keys: Any = {"image_key": data.image_key, "text_key": data.text_key}
            keys["image_root"] = data.image_root
            with noted(f"This is of --{split}-path {path}."):
                source = datasets.open_source(path, n_samples=count, **keys)
            content[split] = datasets.fingerprint(source)
            logger.info("%s: %s in %s", split, content[split], path)
            if split == "valid":
                source = datasets.Pairs(source, empty_captions=data.empty_captions)
                logger.info("valid: %d captions of %d images", len(source), source.num_images)
            sources[split] = source
            with feed(options, split, source, stand_in, workers=0) as examples:
                next(examples)  # what is wrong with the data shows here, before a model is loaded
    if data.zero_shot_path is not None:
        sources["classes"] = datasets.open_classes(
            data.zero_shot_path, split=data.zero_shot_split, class_names=data.zero_shot_names
        )
        eqx_clip.Preprocess()(sources["classes"].images[0])
    model = build(options, skeleton=True)
    train.check_same(**options.shared, examples=content)

    features = train.make_eval_step(mesh)
    eval_step = lambda model, batch: features(model, sharding.global_batch(batch, mesh))  # noqa: E731
    evaluation = functools.partial(evaluate, options, sources, eval_step)
    if "train" not in sources:
        if options.model.is_new:
            logger.warning("The weights are new and random: to evaluate others say --pretrained.")
            model = build(options)
        if (values := evaluation(sharding.place(model, mesh))) and first:
            print(json.dumps(values, indent=2))
        return

    total = run.n_epochs * (len(sources["train"]) // batch_size)
    optimizer, schedule = make_optimizer(options, total)
    step = make_step(options, optimizer, model, mesh)
    setup = Setup(options, mesh, sources["train"], schedule, step, evaluation, total)
    also: Any = {"key": jax.random.key(run.seed), "ema": options.optimizer.ema_decay is not None}
    also |= {"scale_loss": options.model.dtype == "float16"}
    make_state = functools.partial(train.init_state, optimizer=optimizer, **also)
    if run.plan:
        plan = train.plan(model, make_state, step, mesh, batch_size=batch_size, total_steps=total)
        if first:
            print(*(f"{name}: {value}" for name, value in plan.items()), sep="\n")
        return

    name = Path(options.model.model_name).stem
    folder = train.run_folder(name, run.checkpoint_dir, run.resume_from_checkpoint)
    towers = {name: getattr(model, name).config for name in ("image", "text")}
    of_model = {"model": towers, "preprocess": model.preprocess}
    planned = total  # steps of the run when it began
    if folder.resumes:
        saved = train.Checkpointer(folder.path).saved_config(folder.step)
        planned = saved.get("steps", total)
    config = {**options.of_run, **of_model, "examples": content["train"], "steps": planned}
    state = make_state(build(options) if options.model.is_new else model, mesh=mesh)
    del model  # of pretrained weights; the mesh has its own
    with train.Checkpointer(folder.path, config=config, keep=run.checkpoint_keep) as checkpointer:
        if folder.resumes:
            state = checkpointer.restore(state, folder.step)
            check_length(options, folder.path, planned, total, int(state.step))
            logger.info("resumed at step %d from %s", int(state.step), folder.path)
        checkpointer.prepare(int(state.step))
        logger.info("%d steps, checkpoints in %s", total, folder.path)
        if options.loss == "clip":
            logger.info("chance level of the loss, ln(batch): %.4f", math.log(batch_size))
        with noted(goes_on(checkpointer.folder)):
            state = fit(setup, state, checkpointer)
            if state is not None:
                train.export(state.eval_model, run.export_dir or f"{folder.path}/open_clip")
    if state is None:
        print(f"Stopped by SIGTERM. {goes_on(checkpointer.folder)}", file=sys.stderr, flush=True)
        sys.exit(STOPPED)


def check_length(options: Options, folder: str, planned: int, total: int, step: int) -> None:
    """`ValueError` where another number of steps would have had other rates, or has other ones."""
    settings = options.optimizer
    warmup = max(warmup_steps(settings, planned), warmup_steps(settings, total))
    constant = settings.learning_rate_scheduler == "const" and warmup <= step <= total
    if total != planned and not constant:
        raise ValueError(
            f"The run in {folder}, now at step {step}, was made for {planned} steps, and with "
            f"these options has {total}: its learning rates would be others. Give the --n-epochs "
            "that it was made for. To train a finished run for longer start a new one from what it "
            f"exported: --model-name {folder}/open_clip in place of --resume-from-checkpoint. Only "
            "a run of --learning-rate-scheduler const takes more epochs, after its warmup."
        )


def build(options: Options, *, skeleton: bool = False) -> eqx_clip.CLIP:
    """The model to begin with; of a new one, as a skeleton, shapes and preprocessing only."""
    model = options.model
    sizes: Any = {"image_size": model.image_size, "context_length": model.context_len}
    if not model.is_new:
        return with_start(eqx_clip.load(model.model_name, model.pretrained, **sizes), model)
    config: Any = model.model_name
    if config.endswith(".json"):
        config = json.loads(Path(config).read_text())

    def make(key: jax.Array) -> eqx_clip.CLIP:
        return with_start(eqx_clip.create(config, key=key, **sizes), model)

    key = jax.random.key(options.run.seed)
    return eqx.filter_eval_shape(make, key) if skeleton else make(key)


def with_start(model: eqx_clip.CLIP, options: Model) -> eqx_clip.CLIP:
    """The temperature and the bias that training begins with."""
    scale, bias = options.temp_init, model.logit_bias
    if options.siglip and bias is None:  # as the paper begins
        scale, bias = math.log(10) if scale is None else scale, -10.0
    scale = model.logit_scale if scale is None else scale
    return dataclasses.replace(model, logit_scale=scale, logit_bias=bias)


def feed(options: Options, split: str, source: Any, model: Any, **where: int):
    """Batches of "train" or "valid", by the preprocessing and tokenizer of `model`."""
    data, preprocess, training = options.data, model.preprocess, split == "train"
    crops: Any = {"scale": data.augment_scale, "draft": data.draft}
    augmented = eqx_clip.Augment(preprocess.image_size, preprocess.mean, preprocess.std, **crops)
    return datasets.batches(
        source,
        batch_size=data.global_batch_size,
        preprocess=augmented if training else preprocess,
        tokenizer=model.tokenizer,
        seed=options.run.seed,
        shuffle=training,
        epochs=options.run.n_epochs if training else 1,
        drop_remainder=training,
        start_step=where.get("start_step", 0),
        num_workers=where.get("workers", data.workers),
        max_bad=data.max_bad if training else 0,
        empty_captions=data.empty_captions,
    )


def warmup_steps(options: Optimizer, total: int) -> int:
    return options.n_warmup_steps if options.n_warmup_steps < total else total // 10


def make_optimizer(options: Options, total: int):
    """AdamW and its schedule, for a run of so many steps."""
    settings, warmup = options.optimizer, warmup_steps(options.optimizer, total)
    if warmup != settings.n_warmup_steps:
        words = "A warmup of %d steps is longer than the run of %d steps, or as long: taking %d."
        logger.warning(f"{words} Say --n-warmup-steps.", settings.n_warmup_steps, total, warmup)
    rise = {"warmup_steps": warmup, "warmup_init": settings.warmup_init}
    if settings.learning_rate_scheduler == "cosine":
        schedule = train.cosine_schedule(settings.learning_rate, total_steps=total, **rise)
    else:
        schedule = train.constant_schedule(settings.learning_rate, **rise)
    others = {
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "layer_decay": settings.layer_decay,
    }
    optimizer = train.adamw(schedule, b1=settings.beta1, b2=settings.beta2, **others)
    if settings.grad_clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(settings.grad_clip_norm), optimizer)
    return optimizer, schedule


def make_step(options: Options, optimizer: Any, model: eqx_clip.CLIP, mesh: Mesh):
    settings, learns = options.model, None
    if settings.lock_image is not None or settings.lock_text is not None:
        learns = train.trainable(
            model, image_groups=settings.lock_image, text_groups=settings.lock_text
        )
    return train.make_train_step(
        optimizer,
        mesh,
        loss=options.loss,
        accumulate=options.optimizer.accumulate,
        dtype=None if settings.dtype == "float32" else jnp.dtype(settings.dtype),
        remat="full" if settings.grad_checkpoint else settings.remat,
        patch_dropout=settings.patch_dropout,
        ema_decay=options.optimizer.ema_decay,
        trainable=learns,
    )


def fit(
    setup: Setup, state: train.TrainState, checkpointer: train.Checkpointer
) -> train.TrainState | None:
    """The state after every step that is left, with checkpoints, evaluation and logs.

    None if a SIGTERM stopped the run, which is saved then.
    """
    options, run, total = setup.options, setup.options.run, setup.total
    batch_size = options.data.global_batch_size
    source, start, each_epoch = setup.source, int(state.step), total // run.n_epochs
    save_steps = run.checkpoint_steps or (run.checkpoint_freq * each_epoch or None)
    saves = train.SaveSchedule(steps=save_steps, minutes=run.checkpoint_minutes)
    with contextlib.ExitStack() as stack:
        console = train.Console(total, start_step=start)
        log_options: Any = {"start_step": start, "tensorboard": run.tensorboard}
        log_options |= {"wandb_project": run.wandb_project, "config": dataclasses.asdict(options)}
        loggers = [console, *train.make_loggers(checkpointer.folder, **log_options)]
        for closes in loggers:
            stack.callback(closes.close)
        data = stack.enter_context(feed(options, "train", source, state.model, start_step=start))
        ready = train.prefetch(data, setup.mesh, text=state.model.text)
        stack.enter_context(contextlib.closing(ready))
        preemption = stack.enter_context(train.Preemption())
        watchdog = stack.enter_context(train.Watchdog(limit=run.step_timeout, first_limit=3600))
        profile = stack.enter_context(contextlib.ExitStack())
        first_profiled = 1 + max(start, min(start + 10, total - run.profile_steps))
        meter, before, lengths = train.Meter(), None, set()

        def evaluate_after(step: int) -> None:
            watchdog.beat(f"the evaluation after step {step}", limit=36000)
            if values := setup.evaluate(state.eval_model):
                train.log_all(loggers, step, values)
            meter.reset()

        watchdog.beat("the first batch")
        for step, batch in enumerate(meter.waits(ready), start + 1):
            if step > 1 and (step - 1) % each_epoch == 0:  # so that a run stopped before does it
                evaluate_after(step - 1)
            length = batch["tokens"].shape[1]
            compiles = length not in lengths
            lengths.add(length)
            watchdog.beat(f"step {step}", limit=watchdog.first_limit if compiles else None)
            if run.profile_steps and step == first_profiled:
                profile.enter_context(jax.profiler.trace(f"{checkpointer.folder}/profile"))
            if step == first_profiled + run.profile_steps:
                profile.close()
            with console.compiling(f"captions of {length} tokens", compiles):
                state, metrics = setup.step(state, batch)
                if compiles:
                    jax.block_until_ready(metrics)
            meter.count(batch_size)
            if before is not None:  # the step before: this one is still being computed
                train.check_finite(*before, source.where, checkpointer)
            before = step, metrics, batch["index"]
            if step in (start + 1, total) or (run.log_freq and step % run.log_freq == 0):
                values = {name: float(value) for name, value in metrics.items()}
                rate, speed = float(jnp.asarray(setup.schedule(step - 1))), meter.read()
                values["learning_rate"] = rate
                if options.loss == "clip":
                    values["chance"] = math.log(batch_size)
                train.log_all(loggers, step, values if compiles else values | speed)
            if compiles:
                meter.reset()  # it is no training
            console.advance(step)
            stops = preemption.should_stop(step)
            if saves.due(step) or stops or step == total:
                train.check_finite(*before, source.where, checkpointer)
                watchdog.beat(f"the checkpoint of step {step}", limit=3600)
                checkpointer.save(step, state)
                meter.reset()
            if stops:
                return None
            watchdog.beat(f"the batch of step {step + 1}")
        evaluate_after(total)
    return state


def evaluate(options: Options, sources: dict, eval_step: train.EvalStep, model: eqx_clip.CLIP):
    """Validation loss, retrieval and zero-shot accuracy, by name, of a model on the mesh."""
    data, values = options.data, {}
    if "valid" in sources:
        with feed(options, "valid", sources["valid"], model) as examples:
            found = train.validate(
                eval_step,
                model,
                examples,
                batch_size=data.global_batch_size,
                groups=sources["valid"].groups,
                loss=options.loss if data.train_path else None,
            )
        values |= {f"val/{name}": value for name, value in found.items()}
    if "classes" in sources:
        model, classes = train.on_one_device(model), sources["classes"]
        names, templates = classes.class_names, data.zero_shot_templates
        classifier = eqx_clip.zero_shot_classifier(model, names, templates)
        images, labels = classes.images, classes.labels
        found = train.zero_shot_accuracy(model, images, labels, classifier, progress=False)
        values |= {f"zero_shot/{name}": value for name, value in found.items()}
    return values


# --- What a person is told ---------------------------------------------------------------------


def goes_on(folder: str) -> str:
    return f"To go on, give the same options and --resume-from-checkpoint {folder}"


@contextlib.contextmanager
def noted(note: str) -> Iterator[None]:
    """Errors have a note, but for a run that diverged, which would do so again."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, FloatingPointError):
            error.add_note(note)
        raise


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An error in one message, with what helps: a `sys.excepthook`."""
    expected = (ValueError, OSError, FloatingPointError, ImportError, RuntimeError)
    text = str(error) if isinstance(error, expected) and str(error) else f"{kind.__name__}: {error}"
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    words = [f"error: {text.rstrip()}", *remedies(causes), *getattr(error, "__notes__", ())]
    if not isinstance(error, (*expected, KeyboardInterrupt)):
        words.append("--debug shows where in the code this arose.")
    print(*words, sep="\n", file=sys.stderr, flush=True)


def remedies(causes: list[BaseException]) -> Iterator[str]:
    said = " ".join(map(str, causes))
    if re.search("No space left|[Qq]uota exceeded", said):
        yield "The disk is full: make room, or save elsewhere, by --checkpoint-dir."
    elif any(train.is_lost_connection(cause) for cause in causes):
        yield "Another process of this run has died, or cannot be reached: start all of them again."
    elif any(is_of_network(cause) for cause in causes):
        yield "The network, or the host, cannot be reached: try again, or copy the data here first."


def is_of_network(error: BaseException) -> bool:
    known = isinstance(error, (ConnectionError, TimeoutError))
    return known or type(error).__module__.partition(".")[0] in NETWORK


if __name__ == "__main__":
    excepthook, sys.excepthook = sys.excepthook, tell
    flags = Annotated[Options, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]
    options = tyro.cli(flags, description=__doc__)
    if options.run.debug:
        sys.excepthook = excepthook
    main(options)
