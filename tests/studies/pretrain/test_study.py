"""A pre-training with all that it can choose and measure, and its report."""

import dataclasses

import numpy as np
import pytest

from jaxtl import train
from jaxtl.config import parse
from jaxtl.errors import ConfigError, DataError
from jaxtl.measure import outputs
from jaxtl.report import results as results_lib
from jaxtl.runner import preflight
from jaxtl.studies.pretrain import report
from jaxtl.studies.pretrain import study as pretrain
from jaxtl.studies.pretrain.plan import plan
from jaxtl.studies.pretrain.settings import Pretrain
from jaxtl.studies.pretrain.tuning import tune, with_value
from jaxtl.studies.transfer.probes import first_of_each_class

HINGE = dict(make=".tasks.classification", loss=dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0))


def of(rows, **wanted):
  return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def run_checks(base, runtime):
  for check in plan(parse(base, Pretrain), runtime()).checks:
    check()


@pytest.fixture
def base(study_config):
  return study_config["base"]


@pytest.mark.slow
def test_a_study_with_everything(base, runtime, tmp_path):
  seen = base["evaluation"]["test"]
  base |= dict(
    task=HINGE,
    epochs=4.0,
    evaluate_every=4,
    select=dict(evaluation="test", measure="cross_entropy"),
    outputs=dict(train=dict(data=seen, num_examples=48)),
  )
  base["tune"] |= dict(field="task.loss.margin", values=(0.5, 7.0))
  base["transfer"] |= dict(few_shot=dict(shots=(1, 3), draws=2))
  study = parse(base, Pretrain)
  rows = list(pretrain.rows(study, seed=0, workdir=tmp_path / "arm" / "0", runtime=runtime()))
  trials = of(rows, kind="tune")
  grid = {(rate, margin) for rate in (0.01, 0.1) for margin in (0.5, 7.0)}
  assert {(row["peak_rate"], row["value"]) for row in trials} == grid
  best = max(trials, key=lambda row: row["accuracy"])
  [trained] = of(rows, kind="pretrain")
  assert (trained["peak_rate"], trained["loss"]["margin"]) == (best["peak_rate"], best["value"])
  # The least loss of the curve is that of the selected weights, whose numbers the row has.
  assert trained["selected_step"] == trained["test/least_step"]
  assert trained["test/cross_entropy"] == pytest.approx(trained["test/least_cross_entropy"], rel=1e-6)
  assert set(outputs.keys("train")) <= set(trained)
  shots = {row["protocol"]: row for row in of(rows, kind="transfer") if row["protocol"].endswith("_shot")}
  assert sorted(shots) == ["1_shot", "3_shot"]
  assert shots["3_shot"]["num_train"] == 6
  assert np.mean(shots["3_shot"]["accuracies"]) == shots["3_shot"]["accuracy"]
  # The second time, everything but the training is read back.
  again = list(pretrain.rows(study, seed=0, workdir=tmp_path / "arm" / "0", runtime=runtime()))
  assert of(again, kind="tune") == trials
  assert of(again, kind="transfer") == of(rows, kind="transfer")


def test_the_tuned_field_is_checked_before_anything_is_trained(base, runtime):
  base["tune"] |= dict(field="task.loss.margin", values=(0.5, 7.0))
  with pytest.raises(ConfigError, match="softmax_cross_entropy has no 'margin'"):
    plan(parse(base, Pretrain), runtime())
  base["tune"]["field"] = "epochs"
  with pytest.raises(ConfigError, match=r"tune.field is 'epochs'; expected a keyword"):
    plan(parse(base, Pretrain), runtime())
  base["tune"]["field"] = "task.lss.margin"
  with pytest.raises(ConfigError, match=r"nothing in the config is at 'task.lss'"):
    plan(parse(base, Pretrain), runtime())
  base["task"] = HINGE
  base["tune"] |= dict(field="task.loss.margin", values=(0.0, 7.0))
  with pytest.raises(ConfigError, match=r"config.arms.a: margin is 0.0; write a finite number above 0"):
    preflight.check_data(plan(parse(base, Pretrain), runtime()), "a", runtime())
  base["tune"] |= dict(field="optimizer.peak_rate", values=(0.1,))
  with pytest.raises(ConfigError, match="another field than the rate"):
    parse(base, Pretrain)
  for broken in (dict(field=None, values=(1.0,)), dict(field="task.loss.margin", values=())):
    base["tune"] |= broken
    with pytest.raises(ConfigError, match=r"values"):
      parse(base, Pretrain)


def test_a_task_without_accuracies_is_not_tuned(base, runtime, tmp_path, monkeypatch):
  study = parse(base, Pretrain)
  monkeypatch.setattr(train, "run", lambda *a, **k: train.Trained(None, None, [{"step": 1}], 1))
  with pytest.raises(ConfigError, match=r"top-1 accuracies, which \.tasks\.classification does not measure"):
    tune(study, study.tune, workdir=tmp_path, runtime=runtime())
  assert list(tmp_path.iterdir()) == []


def test_a_value_is_set_at_its_path(base):
  base["task"] = HINGE
  study = parse(base, Pretrain)
  changed = with_value(study, "task.loss.margin", 3.0)
  assert changed.task.keywords["loss"].keywords["margin"] == 3.0
  assert dataclasses.replace(changed, task=study.task) == study
  assert with_value(study, "optimizer.momentum", 0.5).optimizer.keywords["momentum"] == 0.5


def test_a_target_among_the_training_images_is_refused(base, runtime):
  run_checks(base, runtime)
  # The same seed and number of classes as in the pre-training.
  base["transfer"]["targets"]["two"]["test"]["source"] |= dict(seed=0, num_classes=3)
  with pytest.raises(DataError, match=r"targets.two: 96 of its test images are in the pre-training data"):
    run_checks(base, runtime)


def test_shots_are_nested_and_a_small_class_is_refused(base, runtime):
  labels = np.array([0, 1, 0, 1, 0, 1, 1])
  few, more = (set(first_of_each_class(labels, shots, seed=(0, 1), name="x")) for shots in (1, 3))
  assert few < more
  assert sorted(labels[list(more)]) == [0, 0, 0, 1, 1, 1]
  draws = {tuple(first_of_each_class(labels, 1, seed=(0, draw), name="x")) for draw in range(200)}
  assert len(draws) == 3 * 4  # a pair of images is missed with a probability below 12 exp(-200/12) < 1e-6
  base["transfer"] |= dict(few_shot=dict(shots=(1, 49), draws=2))
  with pytest.raises(DataError, match=r"targets.two has 48 training images of class 0; few_shot asks for 49"):
    run_checks(base, runtime)


def results_of(trials):
  """A study whose arms have these trials: arm -> {(rate, value): accuracy}."""
  rows = [
    dict(arm=arm, seed=0, kind="tune", peak_rate=rate, accuracy=accuracy, epochs=1.0)
    | ({} if value is None else dict(field="task.loss.margin", value=value))
    for arm, by_values in trials.items()
    for (rate, value), accuracy in by_values.items()
  ]
  config = dict(study="x", base={}, arms={arm: {} for arm in trials}, seeds=[0])
  return results_lib.Results(config, {}, rows, {}, frozenset((arm, 0) for arm in trials))


def test_the_report_shows_every_trial_and_warns_of_ends_and_of_unequal_effort():
  inner = {(rate, value): 0.5 - abs(rate - 2) - abs(value - 2) for rate in (1, 2, 3) for value in (1, 2, 3)}
  outer = {(rate, None): 0.1 * rate for rate in (1, 2, 3)}
  found = results_of(dict(hinge=inner, plain=outer))
  grid = report.trial_grid(found)
  assert list(grid.header) == ["arm", "1", "2", "3", "chosen"]
  assert [row[0] for row in grid.rows] == ["hinge, margin 1", "hinge, margin 2", "hinge, margin 3", "plain"]
  assert [row[-1] for row in grid.rows] == ["", "2", "", "3 (end of the grid)"]
  assert grid.rows[1][2] == "0.500 ✓"
  ends, effort = report.warnings(found)
  assert ends == "At an end of the values tried: plain (largest rate). A better value may lie beyond."
  assert effort == (
    "The arms have different numbers of trials: 9 for hinge; 3 for plain. More trials favour an arm."
  )
  assert report.warnings(results_of(dict(a=inner, b=inner))) == []
  at_end = results_of(dict(hinge={(rate, value): value + (rate == 2) for rate, value in inner}))
  assert "hinge (largest margin)" in report.warnings(at_end)[0]
