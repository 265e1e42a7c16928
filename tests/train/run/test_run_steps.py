"""Which steps of a run do more than train."""

from eqx_clip.train import RunSteps


def which(question, steps: RunSteps) -> list[int]:
    return [step for step in range(steps.start + 1, steps.total + 1) if question(step)]


def test_the_first_of_every_later_epoch_follows_an_evaluation_where_a_run_goes_on_too():
    steps = RunSteps(per_epoch=3, epochs=3)
    assert steps.total == 9
    assert which(steps.begins_later_epoch, steps) == [4, 7]
    resumed = RunSteps(per_epoch=3, epochs=3, start=3)
    assert which(resumed.begins_later_epoch, resumed) == [4, 7]
    within = RunSteps(per_epoch=3, epochs=3, start=4)
    assert which(within.begins_later_epoch, within) == [7]


def test_first_and_last_are_logged_and_every_so_many_between():
    steps = RunSteps(per_epoch=11, epochs=1, log_every=4)
    assert which(steps.is_logged, steps) == [1, 4, 8, 11]
    resumed = RunSteps(per_epoch=11, epochs=1, start=5, log_every=4)
    assert which(resumed.is_logged, resumed) == [6, 8, 11]
    seldom = RunSteps(per_epoch=11, epochs=1)
    assert which(seldom.is_logged, seldom) == [1, 11]


def test_profiling_begins_after_ten_steps_or_earlier_where_fewer_are_left():
    assert list(RunSteps(per_epoch=20, epochs=1).profiled(2)) == [11, 12]
    assert list(RunSteps(per_epoch=20, epochs=1, start=5).profiled(2)) == [16, 17]
    assert list(RunSteps(per_epoch=20, epochs=1, start=15).profiled(2)) == [19, 20]
    assert list(RunSteps(per_epoch=20, epochs=1, start=19).profiled(3)) == [20, 21, 22]
    assert not RunSteps(per_epoch=20, epochs=1).profiled(0)
