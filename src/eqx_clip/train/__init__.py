"""Training: state, step, optimizer and schedules. Knows nothing of data."""

from ._console import Console as Console
from ._curves import draw_curves as draw_curves
from ._evaluate import EvalStep as EvalStep
from ._evaluate import validate as validate
from ._log import JSONLines as JSONLines
from ._log import Logger as Logger
from ._log import TensorBoard as TensorBoard
from ._log import WandB as WandB
from ._log import read_lines as read_lines
from ._meter import Meter as Meter
from ._optimizer import adamw as adamw
from ._optimizer import weight_decay_mask as weight_decay_mask
from ._retrieval import retrieval_metrics as retrieval_metrics
from ._schedule import constant_schedule as constant_schedule
from ._schedule import cooldown_schedule as cooldown_schedule
from ._schedule import cosine_schedule as cosine_schedule
from ._state import TrainState as TrainState
from ._state import init_state as init_state
from ._step import Batch as Batch
from ._step import Metrics as Metrics
from ._step import make_train_step as make_train_step
from ._zero_shot_accuracy import on_one_device as on_one_device
from ._zero_shot_accuracy import zero_shot_accuracy as zero_shot_accuracy
