"""Training: state, step, optimizer, schedules, checkpoints, processes. Knows nothing of data."""

from ._forward import Batch as Batch
from ._groups import layer_rates as layer_rates
from ._groups import trainable as trainable
from ._optimizer import adamw as adamw
from ._optimizer import weight_decay_mask as weight_decay_mask
from ._precision import LossScale as LossScale
from ._checkpoint import Checkpointer as Checkpointer
from ._distributed import initialize as initialize
from ._optimizer import adamw as adamw
from ._optimizer import weight_decay_mask as weight_decay_mask
from ._preemption import Preemption as Preemption
from ._save_schedule import SaveSchedule as SaveSchedule
from ._schedule import constant_schedule as constant_schedule
from ._schedule import cooldown_schedule as cooldown_schedule
from ._schedule import cosine_schedule as cosine_schedule
from ._state import TrainState as TrainState
from ._state import init_state as init_state
from ._step import Metrics as Metrics
from ._step import TrainStep as TrainStep
from ._step import make_eval_step as make_eval_step
from ._step import make_train_step as make_train_step
from ._watchdog import Watchdog as Watchdog
