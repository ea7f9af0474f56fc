"""Fine-tunings of a study are trainings like every other: saved, resumed, and usable afterwards."""

import csv
import dataclasses
import json
import shutil
import sys
import types

import jax
import numpy as np
import pytest

from jaxtl.checkpoints import checkpoint
from jaxtl.config import Spec, parse
from jaxtl.errors import ConfigError, NonFiniteError, Restart
from jaxtl.host.stopwatch import Stopwatch
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.runner import preflight
from jaxtl.studies.transfer.plan import plan_protocols
from jaxtl.studies.transfer.settings import FineTune, Protocols
from jaxtl.train import Experiment, training
from jaxtl.train.experiment import make_model
from jaxtl.train.loop import fit
from jaxtl.train.selection import Select
from tests.small_training import tiny_config
from tests.studies.transfer.small_transfer import fine_tuning, measure, top1

pytestmark = pytest.mark.slow


def test_a_fine_tuning_is_a_checkpoint_with_metrics_curve_and_classes(study_config, start, runtime, tmp_path):
  protocols, runtime = fine_tuning(study_config), runtime()
  (row,) = measure(protocols, start, tmp_path, runtime)
  folder = tmp_path / "two" / "fine_tune"
  assert json.loads((folder / "classes.json").read_text()) == ["a", "b"]
  tuned = checkpoint.load(str(folder))
  assert tuned.classes == ("a", "b")
  assert top1(tuned, runtime.eval_batches(protocols.targets["two"].test)) == pytest.approx(row["accuracy"])
  with (folder / "curve.csv").open() as file:
    curve = list(csv.DictReader(file))
  assert [(line["epoch"], line["step"]) for line in curve] == [("1", "6"), ("2", "12")]
  for name in ("train/loss", "train/accuracy", "train/rate", "eval/test/top1", "eval/test/cross_entropy"):
    assert all(np.isfinite(float(line[name])) for line in curve), name
  assert float(curve[-1]["eval/test/top1"]) == row["accuracy"]
  assert float(curve[-1]["eval/test/cross_entropy"]) == row["loss"]


def test_a_killed_fine_tuning_goes_on_from_its_newest_checkpoint(
  study_config, start, runtime, tmp_path, monkeypatch
):
  protocols = fine_tuning(study_config, checkpoint_every=5, keep=2)
  (whole,) = measure(protocols, start, tmp_path / "whole", runtime())
  stopping = runtime()
  stopping.interruption = StopAfter(8)
  with pytest.raises(Restart):
    measure(protocols, start, tmp_path / "cut", stopping)
  folder = tmp_path / "cut" / "two" / "fine_tune"
  shutil.rmtree(folder / "checkpoints" / "8")  # as if it had been killed, and not stopped
  begun = []
  monkeypatch.setattr(
    training, "fit", lambda state, *a, **k: begun.append(int(state.step)) or fit(state, *a, **k)
  )
  (resumed,) = measure(protocols, start, tmp_path / "cut", runtime())
  assert begun == [5]
  assert {k: v for k, v in resumed.items() if k != "seconds"} == {
    k: v for k, v in whole.items() if k != "seconds"
  }
  one, other = (checkpoint.load(str(tmp_path / run / "two" / "fine_tune")) for run in ("whole", "cut"))
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
  curves = [(tmp_path / run / "two" / "fine_tune" / "curve.csv").read_text() for run in ("whole", "cut")]
  assert curves[0] == curves[1]


def test_a_fine_tuning_that_begins_at_the_probe_is_the_probe_before_its_first_step(
  study_config, start, runtime, tmp_path, monkeypatch
):
  fits, choose = [], LinearProbe.choose

  def counted(*given, **options):
    fits.append(1)
    return choose(*given, **options)

  monkeypatch.setattr(LinearProbe, "choose", counted)
  protocols = fine_tuning(study_config, head="probe", epochs=0.0, evaluate_every_epochs=None)
  fit = parse(study_config["base"]["transfer"], Protocols).linear_probe
  probe, tuned = measure(dataclasses.replace(protocols, linear_probe=fit), start, tmp_path, runtime())
  assert len(fits) == 1  # for both rows
  assert (tuned["head"], tuned["steps"]) == ("probe", 0)
  assert tuned["accuracy"] == probe["accuracy"]
  assert tuned["loss"] == pytest.approx(probe["loss"], rel=1e-5)
  model = start.model_spec(trust=True)
  saved = checkpoint.load(str(tmp_path / "two" / "fine_tune"))
  assert saved.classes == ("a", "b")
  head = make_model(model, num_classes=2).head
  others = [{name: block for name, block in one.params.items() if name != head} for one in (saved, start)]
  jax.tree.map(np.testing.assert_array_equal, *others)


def check_targets(protocols, model, place):
  preflight.check_data(plan_protocols(protocols, model, place), "a", place)


def test_the_head_is_fresh_unless_it_is_to_begin_at_the_probe(study_config, start, runtime, tmp_path):
  rows = {}
  for head in ("fresh", "probe"):
    (rows[head],) = measure(fine_tuning(study_config, head=head), start, tmp_path / head, runtime())
  assert fine_tuning(study_config).fine_tune.head == "fresh"
  assert rows["probe"]["loss"] < rows["fresh"]["loss"]  # 12 steps at a small rate


def test_a_head_that_is_not_linear_cannot_begin_at_the_probe(study_config, runtime):
  model = dict(make=".models.clip_vit_b32", image_size=8, patch_size=4, width=16, depth=1, num_heads=2)
  protocols = fine_tuning(study_config, head="probe")
  check_targets(protocols, model_of(dict(model, head="linear")), runtime())
  with pytest.raises(ConfigError, match=r"needs a linear head, and that of \.models\.clip_vit_b32 has "):
    check_targets(protocols, model_of(dict(model, head="cosine")), runtime())


def model_of(spec) -> Spec:
  return parse(tiny_config(model=spec), Experiment).model


@pytest.mark.parametrize(
  ("changes", "steps"),
  [
    (dict(), ["12"]),
    (dict(checkpoint_every=4), ["12"]),
    (dict(checkpoint_every=4, keep=2), ["12", "8"]),
    (dict(checkpoint_every=None, keep=2), ["12"]),
    (dict(keep=0), []),
  ],
)
def test_keep_and_period_bound_the_checkpoints(study_config, start, runtime, tmp_path, changes, steps):
  measure(fine_tuning(study_config, **changes), start, tmp_path, runtime())
  folder = tmp_path / "two" / "fine_tune" / "checkpoints"
  found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
  assert found == steps
  assert (tmp_path / "two" / "fine_tune" / "curve.csv").is_file()


@pytest.mark.parametrize(("every", "evaluations"), [(None, 1), (0.5, 4), (1.0, 2)])
def test_evaluations_happen_as_often_as_is_said(study_config, start, runtime, tmp_path, every, evaluations):
  (row,) = measure(fine_tuning(study_config, evaluate_every_epochs=every), start, tmp_path, runtime())
  assert row["num_evaluations"] == evaluations


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(keep=-1), "keep is -1; expected 0 or more"),
    (dict(head="zeros"), "head is 'zeros'; expected one of fresh, probe"),
    (dict(checkpoint_every=0), "checkpoint_every is 0; expected at least 1"),
    (dict(evaluate_every_epochs=0.0), "evaluate_every_epochs is 0.0; expected a number above 0"),
  ],
)
def test_impossible_periods_are_refused(study_config, change, message):
  with pytest.raises(ConfigError, match=message):
    parse(study_config["base"]["transfer"]["fine_tune"] | change, FineTune)


def test_a_warm_up_longer_than_the_fine_tuning_is_refused_before_anything_runs(study_config, start, runtime):
  schedule = dict(make=".optim.cosine", warmup_epochs=3.0)
  study_config["base"]["transfer"]["fine_tune"]["optimizer"]["schedule"] = schedule
  protocols = fine_tuning(study_config)
  with pytest.raises(ConfigError, match="two: warmup_epochs=3 is 18 steps, but the whole run has 12"):
    check_targets(protocols, start.model_spec(trust=True), runtime())


@dataclasses.dataclass
class StopAfter:
  """Asks a run to stop after a step."""

  step: int

  def due(self, step: int) -> bool:
    return step >= self.step


def choosing(study_config, rates, **changes):
  """A fine-tuning that chooses among rates on images of its own."""
  protocols = fine_tuning(study_config)
  target = protocols.targets["two"]
  held_out = dataclasses.replace(
    target.test, source=dataclasses.replace(target.test.source, keywords={"num_classes": 2, "seed": 9})
  )
  targets = {"two": dataclasses.replace(target, validation=held_out)}
  return dataclasses.replace(
    protocols,
    targets=targets,
    fine_tune=dataclasses.replace(protocols.fine_tune, peak_rates=rates, **changes),
  )


def test_the_rate_of_least_validation_loss_is_used(study_config, start, runtime, tmp_path):
  rates = (1e-9, 1e-2, 1e30)
  (row,) = measure(choosing(study_config, rates), start, tmp_path, runtime())
  tried = {float(rate): loss for rate, loss in row["tried"].items()}
  assert set(tried) == set(rates)
  assert tried[1e30] is None  # it diverges
  assert row["peak_rate"] == 1e-2 == min((1e-9, 1e-2), key=tried.get)
  assert row["validation_loss"] == tried[1e-2]
  alone = fine_tuning(study_config)
  optimizer = dataclasses.replace(
    alone.fine_tune.optimizer, keywords={**alone.fine_tune.optimizer.keywords, "peak_rate": 1e-2}
  )
  alone = dataclasses.replace(alone, fine_tune=dataclasses.replace(alone.fine_tune, optimizer=optimizer))
  (expected,) = measure(alone, start, tmp_path / "alone", runtime())
  assert row["loss"] == expected["loss"]
  # The chosen run is the fine-tuning; the weights of the others are gone, their losses are not.
  folder = tmp_path / "two"
  assert checkpoint.load(str(folder / "fine_tune")).classes == ("a", "b")
  assert sorted(path.name for path in (folder / "fine_tune_rates").iterdir()) == sorted(
    f"{rate!r}.json" for rate in rates
  )
  # Killed before its row was written: nothing is trained again, and the time that it took is not forgotten.
  (folder / "fine_tune.json").unlink()
  (again,) = measure(choosing(study_config, rates), start, tmp_path, runtime())
  took = [json.loads(file.read_text())["seconds"] for file in (folder / "fine_tune_rates").glob("*.json")]
  assert min(took) > 0
  assert min(row["seconds"], again["seconds"]) > sum(took)
  assert {k: v for k, v in again.items() if k != "seconds"} == {
    k: v for k, v in row.items() if k != "seconds"
  }


def test_a_chosen_run_that_was_removed_by_hand_is_trained_again(study_config, start, runtime, tmp_path):
  protocols = choosing(study_config, (1e-3, 1e-2))
  rows = []
  for _ in range(2):
    rows += measure(protocols, start, tmp_path, runtime())
    shutil.rmtree(tmp_path / "two" / "fine_tune")
    (tmp_path / "two" / "fine_tune.json").unlink()
  first, second = ({k: v for k, v in row.items() if k != "seconds"} for row in rows)
  assert first == second


def test_a_fine_tuning_takes_the_weights_of_its_best_evaluation(study_config, start, runtime, tmp_path):
  protocols = choosing(study_config, (), select=Select("validation", patience=1), epochs=4.0)
  (row,) = measure(protocols, start, tmp_path, runtime())
  assert checkpoint.load(str(tmp_path / "two" / "fine_tune")).config["step"] == row["selected_step"]
  assert "tried" not in row


def test_no_rate_that_converges_and_no_validation_images_are_one_line(study_config, start, runtime, tmp_path):
  with pytest.raises(NonFiniteError, match=r"the fine-tuning on two diverges at every rate \(1e\+30\)"):
    measure(choosing(study_config, (1e30,)), start, tmp_path, runtime())
  with pytest.raises(ConfigError, match=r"targets\.two has no validation images"):
    fine_tuning(study_config, peak_rates=(1e-3, 1e-2))
  with pytest.raises(ConfigError, match="the test images must not choose"):
    choosing(study_config, (), select=Select("test"))
  with pytest.raises(ConfigError, match="different rates"):
    choosing(study_config, (1e-3, 1e-3))


def left_of(runtime, protocols, start, workdir) -> float:
  """Announces the plan's work, measures, and returns the work that is left."""
  planned = plan_protocols(protocols, start.model_spec(), runtime).cell_passes(runtime)
  assert planned == pytest.approx(len(protocols.fine_tune.peak_rates or (1,)) * 12 * 16)  # steps, images
  runtime.progress.expect(planned)
  measure(protocols, start, workdir, runtime)
  return runtime.progress.left


@pytest.mark.parametrize("rates", [(), (1e-9, 1e-2, 1e30)])
def test_no_work_is_left_when_a_fine_tuning_is_done(study_config, start, runtime, tmp_path, rates):
  """One of the rates diverges, and the best run is read back: neither is work that was not announced."""
  protocols = choosing(study_config, rates) if rates else fine_tuning(study_config)
  folder = tmp_path / "two"
  assert left_of(runtime(), protocols, start, tmp_path) == 0
  assert left_of(runtime(), protocols, start, tmp_path) == 0  # all of it is recalled
  (folder / "fine_tune.json").unlink()
  assert left_of(runtime(), protocols, start, tmp_path) == 0  # the run is recalled, or every rate
  (folder / "fine_tune.json").unlink()
  shutil.rmtree(folder / "fine_tune")
  assert left_of(runtime(), protocols, start, tmp_path) == 0  # trained again


def test_work_left_in_the_middle_of_the_rates(study_config, start, runtime, tmp_path):
  """Killed in the second of three rates: two thirds less the steps of its checkpoint are left."""
  protocols = choosing(study_config, (1e-3, 1e-2, 3e-2), checkpoint_every=5, keep=2)
  stopping = runtime()
  stopping.interruption = StopAfter(8)
  with pytest.raises(Restart):
    measure(protocols, start, tmp_path, stopping)  # in the first rate
  folder = tmp_path / "two" / "fine_tune_rates"
  later = runtime()
  per_step, asked = 16, []
  later.interruption = types.SimpleNamespace(
    due=lambda step: asked.append((step, later.progress.left)) or False, beat=lambda: None
  )
  assert left_of(later, protocols, start, tmp_path) == 0
  assert asked[0] == (9, (3 * 12 - 9) * per_step)
  assert dict(asked[:4])[12] == 2 * 12 * per_step
  assert asked[4] == (1, (2 * 12 - 1) * per_step)
  assert len(list(folder.glob("*.json"))) == 3


@pytest.mark.parametrize("rates", [(), (1e-2, 1e-3)])
def test_the_seconds_of_a_killed_fine_tuning_are_those_of_all_its_sessions(
  study_config, start, runtime, tmp_path, monkeypatch, rates
):
  """On a clock that moves a second a step, a kill after step 8 loses the steps after checkpoint 5."""
  now = [0.0]
  monkeypatch.setattr("jaxtl.host.stopwatch.time.monotonic", lambda: now[0])

  class Ticking(StopAfter):
    def due(self, step: int) -> bool:
      now[0] += 1
      if step >= self.step:
        raise KeyboardInterrupt  # unlike a stop, it saves nothing
      return False

  def session(last: int):
    made = runtime()
    made.interruption = Ticking(last)
    now[0] += 1000  # between two sessions
    return measure(protocols, start, tmp_path, made)

  protocols = choosing(study_config, rates) if rates else fine_tuning(study_config)
  changed = dataclasses.replace(protocols.fine_tune, checkpoint_every=5, keep=2)
  protocols = dataclasses.replace(protocols, fine_tune=changed)
  monkeypatch.setattr("jaxtl.studies.transfer.study.Stopwatch", Killed)
  with pytest.raises(KeyboardInterrupt):
    session(8)
  (row,) = session(10**9)
  assert row["seconds"] == (len(rates) or 1) * 12
  if rates:
    first = json.loads((tmp_path / "two" / "fine_tune_rates" / f"{rates[0]!r}.json").read_text())
    assert first["seconds"] == 12


class Killed(Stopwatch):
  """A stopwatch that does not store the seconds since the last checkpoint when its process is killed."""

  def store(self) -> None:
    if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
      super().store()
