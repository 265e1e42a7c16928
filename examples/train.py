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
HOUR = 3600  # seconds: what a compilation, or a checkpoint, may take

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
STEP_OPTIONS = ("siglip", "dtype", "patch_dropout", "lock_image", "lock_text")
DATA_OPTIONS = ("global_batch_size", "augment_scale", "draft", "empty_captions")
# Those that may differ between processes: where they are, and where they find and keep things.
PROCESS_OPTIONS = (
    *("coordinator_address", "process_id", "workers", "export_dir"),
    *("train_path", "valid_path", "zero_shot_path", "zero_shot_names", "image_root"),
)
MINIMUM = {
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
            if name in MINIMUM and not value >= MINIMUM[name]:
                raise ValueError(f"{option} must be at least {MINIMUM[name]}; got {value}.")
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
        return {name: value for name, value in self.by_name.items() if name not in PROCESS_OPTIONS}

    @property
    def resumable(self) -> dict[str, Any]:
        """What must be equal for a run to go on."""
        return {
            "step": {name: getattr(self.model, name) for name in STEP_OPTIONS},
            "optimizer": dataclasses.replace(self.optimizer, accumulate=1),
            "data": {name: getattr(self.data, name) for name in DATA_OPTIONS},
            "seed": self.run.seed,
        }


# --- Training --------------------------------------------------------------------------------

logger = logging.getLogger("train")


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples of training, or of validation."""

    source: Any
    fingerprint: str
    steps_per_epoch: int


@dataclasses.dataclass(frozen=True)
class Setup:
    """What does not change during a run."""

    options: Options
    mesh: Mesh
    examples: Split
    steps: train.RunSteps
    schedule: optax.Schedule
    make_state: Callable[..., train.TrainState]
    step: train.TrainStep
    evaluate: Callable[[eqx_clip.CLIP], dict[str, float]]


def main(options: Options) -> None:
    data, run = options.data, options.run
    train.initialize(run.coordinator_address, run.num_processes, run.process_id)
    start_log(options)
    mesh = sharding.make_mesh(*(run.mesh or (None, 1)))
    sharding.check_batch_size(data.global_batch_size, mesh, options.optimizer.accumulate)
    paths = {"train": data.train_path, "valid": data.valid_path}
    splits = {name: open_split(options, name, path) for name, path in paths.items() if path}
    classes = open_classes(data)
    model = build(options, skeleton=True)
    fingerprints = {name: split.fingerprint for name, split in splits.items()}
    train.check_same(**options.shared, examples=fingerprints)

    encode = train.make_eval_step(mesh)
    evaluation = functools.partial(evaluate, options, mesh, encode, splits.get("valid"), classes)
    if "train" not in splits:
        return print_evaluation(options, mesh, evaluation, model)
    setup = make_setup(options, mesh, splits["train"], evaluation, model)
    if run.plan:
        return print_plan(setup, model)

    name = Path(options.model.model_name).stem
    folder = train.run_folder(name, run.checkpoint_dir, run.resume_from_checkpoint)
    config = checkpoint_config(setup, folder, model)
    state = setup.make_state(build(options) if options.model.is_new else model, mesh=mesh)
    del model  # of pretrained weights; the mesh has its own
    with train.Checkpointer(folder.path, config=config, keep=run.checkpoint_keep) as checkpointer:
        state = begin(setup, state, folder, checkpointer)
        with add_note(resume_hint(checkpointer.folder)):
            state = fit(setup, state, checkpointer)
            if state is not None:
                train.export(state.eval_model, run.export_dir or f"{folder.path}/open_clip")
    if state is None:
        hint = resume_hint(checkpointer.folder)
        print(f"Stopped by SIGTERM. {hint}", file=sys.stderr, flush=True)
        sys.exit(STOPPED)


def start_log(options: Options) -> None:
    is_first, label = jax.process_index() == 0, f"process {jax.process_index()}"
    logging.basicConfig(format=f"%(asctime)s {label} %(levelname)s %(message)s")
    logging.getLogger("eqx_clip").setLevel(logging.INFO)
    logger.setLevel(logging.INFO if is_first else logging.ERROR)
    for name, value in options.by_name.items():
        logger.info("%s: %s", name.replace("_", "-"), value)
    if options.data.shuffle_buffer_size is not None:
        logger.warning("--shuffle-buffer-size has no use any more: epochs are shuffled whole.")


def open_split(options: Options, name: str, path: str) -> Split:
    """What is wrong with the data of "train" or "valid" shows here, before a model is loaded."""
    data, count = options.data, getattr(options.data, f"{name}_n_samples")
    keys: Any = {key: getattr(data, key) for key in ("image_key", "text_key", "image_root")}
    with add_note(f"This is of --{name}-path {path}."):
        source = datasets.open_source(path, n_samples=count, **keys)
    fingerprint = datasets.fingerprint(source)
    logger.info("%s: %s in %s", name, fingerprint, path)
    if name == "valid":
        source = datasets.Pairs(source, empty_captions=data.empty_captions)
        logger.info("valid: %d captions of %d images", len(source), source.num_images)
    stand_in = SimpleNamespace(preprocess=eqx_clip.Preprocess(), tokenizer=eqx_clip.Tokenizer())
    steps_per_epoch = feed(options, name, source, stand_in).steps_per_epoch
    # A few examples, the same in all processes: all of them go on, or none.
    few = {"batch_size": min(16, data.global_batch_size), "num_workers": 0}
    with feed(options, name, source, stand_in, **few, process_index=0, process_count=1) as examples:
        next(examples)
    return Split(source, fingerprint, steps_per_epoch)


def open_classes(options: Data) -> datasets.LabelledImages | None:
    if options.zero_shot_path is None:
        return None
    classes = datasets.open_classes(
        options.zero_shot_path, split=options.zero_shot_split, class_names=options.zero_shot_names
    )
    eqx_clip.Preprocess()(classes.images[0])  # raises where it cannot be read
    return classes


def make_setup(options: Options, mesh: Mesh, examples: Split, evaluation: Any, model: Any) -> Setup:
    run = options.run
    steps = train.RunSteps(examples.steps_per_epoch, run.n_epochs, log_every=run.log_freq)
    optimizer, schedule = make_optimizer(options, steps.total)
    step = make_step(options, optimizer, model, mesh)
    extras: Any = {"key": jax.random.key(run.seed), "ema": options.optimizer.ema_decay is not None}
    extras |= {"scale_loss": options.model.dtype == "float16"}
    make_state = functools.partial(train.init_state, optimizer=optimizer, **extras)
    return Setup(options, mesh, examples, steps, schedule, make_state, step, evaluation)


def checkpoint_config(setup: Setup, folder: train.RunFolder, model: Any) -> dict[str, Any]:
    """What must be equal for a run to go on, and how many steps it was made for."""
    config: Any = {
        **setup.options.resumable,
        "model": {"image": model.image.config, "text": model.text.config},
        "preprocess": model.preprocess,
        "examples": setup.examples.fingerprint,
        "steps": setup.steps.total,
    }
    if folder.resumes:
        saved = train.Checkpointer(folder.path).saved_config(folder.step)
        config["steps"] = saved.get("steps", setup.steps.total)
    return config


def begin(
    setup: Setup, state: Any, folder: train.RunFolder, checkpointer: train.Checkpointer
) -> train.TrainState:
    """The state to train from: that of the checkpoint where the run goes on."""
    if folder.resumes:
        state = checkpointer.restore(state, folder.step)
        check_length(setup, folder.path, checkpointer.config["steps"], int(state.step))
        logger.info("resumed at step %d from %s", int(state.step), folder.path)
    checkpointer.prepare(int(state.step))
    logger.info("%d steps, checkpoints in %s", setup.steps.total, folder.path)
    if setup.options.loss == "clip":
        chance = math.log(setup.options.data.global_batch_size)
        logger.info("chance level of the loss, ln(batch): %.4f", chance)
    return state


def check_length(setup: Setup, folder: str, planned: int, step: int) -> None:
    """`ValueError` where another number of steps would have had other rates, or has other ones."""
    settings, total = setup.options.optimizer, setup.steps.total
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
        return with_temperature(eqx_clip.load(model.model_name, model.pretrained, **sizes), model)
    config: Any = model.model_name
    if config.endswith(".json"):
        config = json.loads(Path(config).read_text())

    def make(key: jax.Array) -> eqx_clip.CLIP:
        return with_temperature(eqx_clip.create(config, key=key, **sizes), model)

    key = jax.random.key(options.run.seed)
    return eqx.filter_eval_shape(make, key) if skeleton else make(key)


def with_temperature(model: eqx_clip.CLIP, options: Model) -> eqx_clip.CLIP:
    """The temperature and the bias that training begins with."""
    scale, bias = options.temp_init, model.logit_bias
    if options.siglip and (bias is None or options.is_new):  # as the paper begins
        scale, bias = math.log(10) if scale is None else scale, -10.0
    scale = model.logit_scale if scale is None else scale
    return dataclasses.replace(model, logit_scale=scale, logit_bias=bias)


def feed(options: Options, split: str, source: Any, model: Any, **overrides: int):
    """Batches of "train" or "valid", by the preprocessing and tokenizer of `model`."""
    data, preprocess, training = options.data, model.preprocess, split == "train"
    crops: Any = {"scale": data.augment_scale, "draft": data.draft}
    augmented = eqx_clip.Augment(preprocess.image_size, preprocess.mean, preprocess.std, **crops)
    arguments: Any = {
        "batch_size": data.global_batch_size,
        "preprocess": augmented if training else preprocess,
        "tokenizer": model.tokenizer,
        "seed": options.run.seed,
        "shuffle": training,
        "epochs": options.run.n_epochs if training else 1,
        "drop_remainder": training,
        "num_workers": data.workers,
        "max_bad": data.max_bad if training else 0,
        "empty_captions": data.empty_captions,
    }
    return datasets.batches(source, **{**arguments, **overrides})


def warmup_steps(options: Optimizer, total: int) -> int:
    return options.n_warmup_steps if options.n_warmup_steps < total else total // 10


def make_optimizer(options: Options, total: int):
    """AdamW and its schedule, for a run of so many steps."""
    settings, warmup = options.optimizer, warmup_steps(options.optimizer, total)
    if warmup != settings.n_warmup_steps:
        words = "A warmup of %d steps is longer than the run of %d steps, or as long: taking %d."
        logger.warning(f"{words} Say --n-warmup-steps.", settings.n_warmup_steps, total, warmup)
    ramp = {"warmup_steps": warmup, "warmup_init": settings.warmup_init}
    if settings.learning_rate_scheduler == "cosine":
        schedule = train.cosine_schedule(settings.learning_rate, total_steps=total, **ramp)
    else:
        schedule = train.constant_schedule(settings.learning_rate, **ramp)
    moments = {"b1": settings.beta1, "b2": settings.beta2, "eps": settings.eps}
    decay = {"weight_decay": settings.weight_decay, "layer_decay": settings.layer_decay}
    optimizer = train.adamw(schedule, **moments, **decay)
    if settings.grad_clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(settings.grad_clip_norm), optimizer)
    return optimizer, schedule


def make_step(options: Options, optimizer: Any, model: eqx_clip.CLIP, mesh: Mesh):
    settings, trainable = options.model, None
    if settings.lock_image is not None or settings.lock_text is not None:
        trainable = train.trainable(
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
        trainable=trainable,
    )


@dataclasses.dataclass(frozen=True)
class Loop:
    """What the loop of training draws from, asks and reports to."""

    steps: train.RunSteps
    batches: Iterator[dict[str, Any]]
    console: train.Console
    loggers: list[train.Logger]
    meter: train.Meter
    preemption: train.Preemption
    watchdog: train.Watchdog
    profile: contextlib.ExitStack


@contextlib.contextmanager
def open_loop(setup: Setup, state: train.TrainState, folder: str) -> Iterator[Loop]:
    options, run = setup.options, setup.options.run
    steps = dataclasses.replace(setup.steps, start=int(state.step))
    resume: Any = {"start_step": steps.start}
    writers: Any = {"tensorboard": run.tensorboard, "wandb_project": run.wandb_project}
    with contextlib.ExitStack() as stack:
        console, meter = train.Console(steps.total, **resume), train.Meter()
        config = dataclasses.asdict(options)
        loggers = [console, *train.make_loggers(folder, config=config, **writers, **resume)]
        for log in loggers:
            stack.callback(log.close)
        data = feed(options, "train", setup.examples.source, state.model, **resume)
        batches = train.prefetch(stack.enter_context(data), setup.mesh, text=state.model)
        stack.enter_context(contextlib.closing(batches))
        preemption = stack.enter_context(train.Preemption())
        watchdog = train.Watchdog(limit=run.step_timeout, first_limit=HOUR)
        stack.enter_context(watchdog)
        profile = stack.enter_context(contextlib.ExitStack())
        batches = meter.waits(batches)
        yield Loop(steps, batches, console, loggers, meter, preemption, watchdog, profile)


def fit(
    setup: Setup, state: train.TrainState, checkpointer: train.Checkpointer
) -> train.TrainState | None:
    """The state after every step that is left, with checkpoints, evaluation and logs.

    None if a SIGTERM stopped the run, which is saved then.
    """
    run, source, previous = setup.options.run, setup.examples.source, None
    save_steps = run.checkpoint_steps or run.checkpoint_freq * setup.steps.per_epoch or None
    saves = train.SaveSchedule(steps=save_steps, minutes=run.checkpoint_minutes)
    with open_loop(setup, state, checkpointer.folder) as loop:
        loop.watchdog.beat("the first batch")
        for step, batch in enumerate(loop.batches, loop.steps.start + 1):
            if loop.steps.begins_later_epoch(step):  # so that a run stopped before does it
                evaluate_after(setup, loop, step - 1, state)
            profile_around(setup, loop, step, checkpointer.folder)
            state, metrics = take_step(setup, loop, step, state, batch)
            if previous is not None:  # this step is still being computed
                train.check_finite(*previous, source.where, checkpointer)
            previous = step, metrics, batch["index"]
            if loop.steps.is_logged(step):
                log_step(setup, loop, step, metrics)
            loop.console.advance(step)
            stops = loop.preemption.should_stop(step)
            if saves.due(step) or stops or step == loop.steps.total:
                train.check_finite(*previous, source.where, checkpointer)
                loop.watchdog.beat(f"the checkpoint of step {step}", limit=HOUR)
                checkpointer.save(step, state)
                loop.meter.reset()
            if stops:
                return None
            loop.watchdog.beat(f"the batch of step {step + 1}")
        evaluate_after(setup, loop, loop.steps.total, state)
    return state


def take_step(setup: Setup, loop: Loop, step: int, state: train.TrainState, batch: Any):
    """The next state, and metrics. The time in which a step is compiled is no training."""
    compiles = setup.step.compiles(batch)
    loop.watchdog.beat(f"step {step}", limit=loop.watchdog.first_limit if compiles else None)
    with loop.console.compiling(f"captions of {batch['tokens'].shape[1]} tokens", compiles):
        state, metrics = setup.step(state, batch)
        if compiles:
            jax.block_until_ready(metrics)
    if compiles:
        loop.meter.reset()
    else:
        loop.meter.count(setup.options.data.global_batch_size)
    return state, metrics


def log_step(setup: Setup, loop: Loop, step: int, metrics: train.Metrics) -> None:
    values = {name: float(value) for name, value in metrics.items()}
    values["learning_rate"] = float(jnp.asarray(setup.schedule(step - 1)))
    if setup.options.loss == "clip":
        values["chance"] = math.log(setup.options.data.global_batch_size)
    # The meter is read after the metrics, for which the step had to end.
    train.log_all(loop.loggers, step, values | loop.meter.read())


def evaluate_after(setup: Setup, loop: Loop, step: int, state: train.TrainState) -> None:
    loop.watchdog.beat(f"the evaluation after step {step}", limit=10 * HOUR)
    if values := setup.evaluate(state.eval_model):
        train.log_all(loop.loggers, step, values)
    loop.meter.reset()


def profile_around(setup: Setup, loop: Loop, step: int, folder: str) -> None:
    profiled = loop.steps.profiled(setup.options.run.profile_steps)
    if profiled and step == profiled.start:
        loop.profile.enter_context(jax.profiler.trace(f"{folder}/profile"))
    if step == profiled.stop:
        loop.profile.close()


def evaluate(
    options: Options, mesh: Mesh, encode: Callable, valid: Split | None, classes: Any, model: Any
) -> dict[str, float]:
    """Validation loss, retrieval and zero-shot accuracy, by name, of a model on the mesh."""
    data, values = options.data, {}
    if valid is not None:
        with feed(options, "valid", valid.source, model) as examples:
            found = train.validate(
                lambda model, batch: encode(model, sharding.global_batch(batch, mesh)),
                model,
                examples,
                batch_size=data.global_batch_size,
                groups=valid.source.groups,
                loss=options.loss if data.train_path else None,
            )
        values |= {f"val/{name}": value for name, value in found.items()}
    if classes is not None:
        model = train.on_one_device(model)
        names, templates = classes.class_names, data.zero_shot_templates
        classifier = eqx_clip.zero_shot_classifier(model, names, templates)
        images, labels = classes.images, classes.labels
        found = train.zero_shot_accuracy(model, images, labels, classifier, progress=False)
        values |= {f"zero_shot/{name}": value for name, value in found.items()}
    return values


# --- What a person is told ---------------------------------------------------------------------


def print_evaluation(options: Options, mesh: Mesh, evaluation: Any, model: eqx_clip.CLIP) -> None:
    if options.model.is_new:
        logger.warning("The weights are new and random: to evaluate others say --pretrained.")
        model = build(options)
    values = evaluation(sharding.place(model, mesh))
    if values and jax.process_index() == 0:
        print(json.dumps(values, indent=2))


def print_plan(setup: Setup, model: eqx_clip.CLIP) -> None:
    sizes = {"batch_size": setup.options.data.global_batch_size, "total_steps": setup.steps.total}
    plan = train.plan(model, setup.make_state, setup.step, setup.mesh, **sizes)
    if jax.process_index() == 0:
        print(*(f"{name}: {value}" for name, value in plan.items()), sep="\n")


def resume_hint(folder: str) -> str:
    return f"To go on, give the same options and --resume-from-checkpoint {folder}"


@contextlib.contextmanager
def add_note(note: str) -> Iterator[None]:
    """Errors have a note, but for a run that diverged, which would do so again."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, FloatingPointError):
            error.add_note(note)
        raise


def print_error(kind: type, error: BaseException, trace: TracebackType | None) -> None:
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
    messages = " ".join(map(str, causes))
    if re.search("No space left|[Qq]uota exceeded", messages):
        yield "The disk is full: make room, or save elsewhere, by --checkpoint-dir."
    elif any(train.is_lost_connection(cause) for cause in causes):
        yield "Another process of this run has died, or cannot be reached: start all of them again."
    elif any(is_network_error(cause) for cause in causes):
        yield "The network, or the host, cannot be reached: try again, or copy the data here first."


def is_network_error(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, (ConnectionError, TimeoutError)) or package in NETWORK


if __name__ == "__main__":
    excepthook, sys.excepthook = sys.excepthook, print_error
    flags = Annotated[Options, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]
    options = tyro.cli(flags, description=__doc__)
    if options.run.debug:
        sys.excepthook = excepthook
    main(options)
