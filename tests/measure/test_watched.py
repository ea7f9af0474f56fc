"""Whatever a study spends its time with tells the watchdog that it moves."""

import dataclasses
import threading

import jax
import pytest

from jaxtl import cli
from jaxtl.cli import run as commands
from jaxtl.measure.landscape import Landscape
from jaxtl.runner import config_file
from jaxtl.runner import run as study
from jaxtl.studies.pretrain import study as pretrain
from jaxtl.studies.pretrain import tuning
from jaxtl.studies.transfer import study as transfer
from jaxtl.tasks import CROSS_ENTROPY
from jaxtl.train.step import init_model

pytestmark = pytest.mark.slow


class Beats:
  """In the place of a watchdog: counts."""

  def __init__(self):
    self.count = 0

  def beat(self):
    self.count += 1


@pytest.fixture
def place(runtime):
  made = runtime()
  made.watchdog = Beats()
  return made


@pytest.fixture
def parsed(study_config):
  _, arms = config_file.parse_config(study_config)
  return arms["smoothed_hinge"]


@pytest.fixture
def weights(parsed, place):
  start = dataclasses.replace(tuning.experiment_of(parsed), epochs=0.0)
  return pretrain.train.run(start, seed=0, runtime=place).weights


def beats_of(place, work):
  before = place.watchdog.count
  result = work()
  return result, place.watchdog.count - before


def test_every_batch_of_every_hessian_product_beats(parsed, place):
  """48 images in batches of 16: three to a product, and three to read them."""
  plan = parsed.flatness
  model = parsed.model.realize(num_classes=3)
  params, stats = init_model(model, jax.random.key(0), (8, 8, 3))
  place.open(parsed.flatness.data)

  def measure():
    subset = dict(num_examples=plan.num_examples, seed=plan.seed)
    scene = Landscape.of(model, params, stats, CROSS_ENTROPY, plan.data, place, **subset)
    return scene.extremes(num_iters=plan.num_iters, tolerance=plan.tolerance)

  found, beats = beats_of(place, measure)
  assert beats == 3 * (found.num_products + 1)


def on_target(parsed, place, weights):
  return transfer.OnTarget(
    name="two",
    target=parsed.transfer.targets["two"],
    model=parsed.model,
    start=weights,
    probe=parsed.transfer.linear_probe,
    seed=0,
    runtime=place,
  )


def test_every_batch_and_every_penalty_of_a_probe_beats(parsed, place, weights):
  """96 images to fit on and as many to test on, in batches of 16 and 32; two penalties and the last fit."""
  here = on_target(parsed, place, weights)
  for data in (here.target.train, here.target.test):
    place.open(data)
  row, beats = beats_of(place, lambda: transfer.probe_row(here))
  assert beats == 96 // 16 + 96 // 32 + 2 + 1
  assert row["l2_chosen_by"] == "held_out"


def test_every_step_and_evaluation_batch_of_a_fine_tuning_beats(parsed, place, weights, tmp_path):
  here = on_target(parsed, place, weights)
  row, beats = beats_of(place, lambda: transfer._fine_tune_row(here, parsed.transfer.fine_tune, tmp_path))
  assert beats >= row["steps"] + row["num_evaluations"] * 96 // 32


def test_a_run_is_watched_from_its_first_line_to_its_report(tmp_path, study_config, monkeypatch):
  def watched(*_, **__):
    seen.append("watchdog" in {thread.name for thread in threading.enumerate()})

  seen = []
  monkeypatch.setattr(study, "run_study", watched)
  monkeypatch.setattr(commands, "write_report", watched)
  path = tmp_path / "c.py"
  path.write_text(f"def get_config():\n  return {study_config!r}\n")
  assert cli.main(["run", str(path), "--workdir", str(tmp_path / "run")]) == 0
  assert seen == [True, True]
  assert "watchdog" not in {thread.name for thread in threading.enumerate()}
