"""Fine-tunings that train a part, add factors, keep a curve, or are mixed with their start."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtl import models, train, tree
from jaxtl.checkpoints import checkpoint
from jaxtl.config import parse, spec
from jaxtl.errors import ConfigError
from jaxtl.runner import preflight
from jaxtl.studies.transfer.fine_tuning import fine_tuning as fine_tuning_of
from jaxtl.studies.transfer.plan import plan_protocols
from jaxtl.studies.transfer.settings import Curve, FineTune
from jaxtl.train.experiment import make_model
from jaxtl.train.inputs import Data
from jaxtl.train.prefix_cache import PrefixCache
from jaxtl.train.selection import Select
from tests.small_training import tiny_config
from tests.studies.transfer.small_transfer import fine_tuning, measure, top1

pytestmark = pytest.mark.slow


def with_validation(protocols):
  source = dict(make="tests.small_training.squares", num_classes=2, seed=2, num_examples=64)
  held_out = parse(dict(source=source, transforms=[dict(fn=".data.normalize")], batch_size=32), Data)
  targets = {
    name: dataclasses.replace(target, validation=held_out) for name, target in protocols.targets.items()
  }
  return dataclasses.replace(protocols, targets=targets)


def fixed(protocols):
  """Without augmentation, so that hidden states can be cached."""
  targets = {
    name: dataclasses.replace(
      target, train=dataclasses.replace(target.train, transforms=target.test.transforms)
    )
    for name, target in protocols.targets.items()
  }
  return dataclasses.replace(protocols, targets=targets)


def tuned(folder):
  return checkpoint.load(str(folder / "two" / "fine_tune"))


HEAD = spec(dict(make=".optim.only", update="head"))


def test_the_head_alone_equals_a_frozen_backbone_with_and_without_kept_states(
  study_config,
  start,
  runtime,
  tmp_path,
):
  base = fixed(fine_tuning(study_config))
  frozen = dataclasses.replace(
    base.fine_tune.optimizer, keywords={**base.fine_tune.optimizer.keywords, "freeze": "^(?!head/)"}
  )
  ways = {
    "kept": dict(gradient=HEAD, cache=PrefixCache(where="host")),
    "not": dict(gradient=HEAD, cache=PrefixCache(where="none")),
    "frozen": dict(optimizer=frozen),
  }
  rows, heads = {}, {}
  for name, changes in ways.items():
    fine_tune = dataclasses.replace(base.fine_tune, **changes)
    protocols = dataclasses.replace(base, fine_tune=fine_tune)
    (rows[name],) = measure(protocols, start, tmp_path / name, runtime())
    weights = tuned(tmp_path / name)
    heads[name] = weights.params["head"]
    for path, x in tree.select(weights.params, "^(?!head/)").items():
      np.testing.assert_array_equal(x, tree.select(start.params, f"^{path}$")[path])
  for name in ("not", "frozen"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), heads["kept"], heads[name]
    )
    assert rows["kept"]["loss"] == pytest.approx(rows[name]["loss"], abs=1e-5)
  width = start.params["head"]["kernel"].shape[0]
  assert rows["kept"]["num_trained"] == 2 * width + 2
  assert rows["kept"]["num_parameters"] == tree.size(weights.params)
  assert "num_trained" not in rows["frozen"]


def flipped(protocols):
  """With an augmentation that draws."""
  flip = spec(dict(fn=".data.flip_left_right"))
  targets = {
    name: dataclasses.replace(
      target, train=dataclasses.replace(target.train, transforms=(flip, *target.test.transforms))
    )
    for name, target in protocols.targets.items()
  }
  return dataclasses.replace(protocols, targets=targets)


def test_a_cache_under_augmentation_is_refused_before_anything_runs(study_config, start, runtime):
  protocols = flipped(fine_tuning(study_config, gradient=HEAD, cache=PrefixCache(where="host")))
  planned = plan_protocols(protocols, start.model_spec(trust=True), runtime())
  with pytest.raises(ConfigError, match=r"fine_tune.cache: no hidden states can be kept: .*flip"):
    preflight.check_data(planned, "a", runtime())


def test_lora_starts_at_the_checkpoint_and_leaves_its_weights(study_config, start, runtime, tmp_path):
  adapter = spec(dict(make=".models.lora", rank=2, where=r"conv\d/kernel$"))
  rule = spec(dict(make=".optim.only", update=("head", r"/lora_\w+$")))
  protocols = fine_tuning(study_config, adapter=adapter, gradient=rule)
  (row,) = measure(protocols, start, tmp_path, runtime())
  weights = tuned(tmp_path)
  assert top1(weights, runtime().eval_batches(protocols.targets["two"].test)) == pytest.approx(
    row["accuracy"]
  )
  kept = tree.select(weights.params, r"^(?!head/)(?!.*/lora_)")
  assert set(kept) == set(tree.select(start.params, "^(?!head/)"))
  for path, x in kept.items():
    np.testing.assert_array_equal(x, tree.select(start.params, f"^{path}$")[path])
  factors = tree.select(weights.params, r"/lora_b$")
  assert factors
  assert all(np.any(x) for x in factors.values())
  assert row["num_trained"] == tree.size(tree.select(weights.params, r"^head/|/lora_\w+$"))
  # Merged into the kernels, they are a network like the start.
  merged = dataclasses.replace(
    weights,
    params=models.merge_factors(weights.params, alpha=8.0),
    config={**weights.config, "model": start.config["model"]},
  )
  assert tree.paths(merged.params) == tree.paths(start.params)
  batch = next(iter(runtime().eval_batches(protocols.targets["two"].test)))
  ours, theirs = (
    make_model(one.model_spec(trust=True), num_classes=2).apply(one.params, one.batch_stats, batch["image"])[
      0
    ]
    for one in (weights, merged)
  )
  np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-4, atol=1e-5)


def test_l2_sp_and_auto_rgn_are_arms_that_resume_and_choose_rates(study_config, start, runtime, tmp_path):
  base = with_validation(fine_tuning(study_config))
  rgn = spec(dict(make=".optim.auto_rgn", batches=1, transform=dict(make=".optim.sgd", peak_rate=0.1)))
  near = spec(dict(make=".optim.l2_sp", alpha=0.5))
  for name, changes in (("rgn", dict(optimizer=rgn)), ("near", dict(gradient=near))):
    fine_tune = dataclasses.replace(base.fine_tune, peak_rates=(0.01, 0.1), **changes)
    (row,) = measure(dataclasses.replace(base, fine_tune=fine_tune), start, tmp_path / name, runtime())
    assert set(row["tried"]) == {"0.01", "0.1"}
    assert np.isfinite(row["loss"])


def test_a_curve_has_a_row_for_each_epoch_from_before_the_first_step(study_config, start, runtime, tmp_path):
  protocols = fine_tuning(study_config, epochs=3.0, curve=Curve(num_examples=32), head="probe")
  row, *curve = measure(protocols, start, tmp_path, runtime())
  assert [(one["kind"], one["epoch"]) for one in curve] == [("curve", epoch) for epoch in range(4)]
  assert curve[0]["train_loss"] is None
  assert all(np.isfinite(one["train_loss"]) for one in curve[1:])
  assert curve[-1]["test_loss"] == row["loss"]
  assert curve[-1]["test_accuracy"] == row["accuracy"]
  assert all(np.isfinite(one["clean_train_loss"]) for one in curve)
  losses = [one["test_loss"] for one in curve[1:]]
  assert row["least_epoch"] == 1 + int(np.argmin(losses))
  assert row["rise"] == pytest.approx(losses[-1] - min(losses))
  assert row["gap_at_end"] == pytest.approx(losses[-1] - curve[-1]["clean_train_loss"])
  assert "over_fits" not in row
  # Epoch 0 is the probe.
  probe = dataclasses.replace(
    protocols, fine_tune=dataclasses.replace(protocols.fine_tune, epochs=0.0, curve=None)
  )
  (before,) = measure(probe, start, tmp_path / "before", runtime())
  assert curve[0]["test_loss"] == pytest.approx(before["loss"], rel=1e-6)
  # What is read back is what was measured.
  assert measure(protocols, start, tmp_path, runtime()) == [row, *curve]


def test_over_fitting_is_judged_by_weights_that_other_images_chose(study_config, start, runtime, tmp_path):
  protocols = with_validation(fine_tuning(study_config, epochs=3.0, curve=Curve()))
  select = Select(evaluation="validation")
  protocols = dataclasses.replace(
    protocols, fine_tune=dataclasses.replace(protocols.fine_tune, select=select)
  )
  row, *curve = measure(protocols, start, tmp_path, runtime())
  assert all("validation_loss" in one for one in curve)
  assert row["last_loss"] == pytest.approx(curve[-1]["test_loss"], rel=1e-5)
  assert row["chosen_loss"] == pytest.approx(row["loss"], rel=1e-5)
  assert row["chosen_rise"] == pytest.approx(row["last_loss"] - row["chosen_loss"], abs=1e-6)
  assert row["rise_low"] <= row["chosen_rise"] <= row["rise_high"]
  assert row["over_fits"] == (row["rise_low"] > 0)
  assert row["temperature"] > 0
  assert np.isfinite(row["scaled_loss"])


@pytest.mark.parametrize("head", ["fresh", "probe"])
def test_the_ends_of_the_path_are_the_start_and_the_fine_tuning(study_config, start, runtime, tmp_path, head):
  protocols = with_validation(fine_tuning(study_config, head=head, interpolate=(0.0, 0.5, 1.0)))
  row, between = measure(protocols, start, tmp_path, runtime())
  assert between["protocol"] == "interpolated"
  first, middle, last = between["path"]
  assert last["test_loss"] == pytest.approx(row["loss"], rel=1e-5)
  assert (first["alpha"], middle["alpha"], last["alpha"]) == (0.0, 0.5, 1.0)
  if head == "probe":
    still = dataclasses.replace(protocols.fine_tune, epochs=0.0, interpolate=())
    (before,) = measure(dataclasses.replace(protocols, fine_tune=still), start, tmp_path / "still", runtime())
    assert first["test_loss"] == pytest.approx(before["loss"], rel=1e-5)
  chosen = min(between["path"], key=lambda one: one["validation_loss"])
  assert (between["alpha"], between["loss"]) == (chosen["alpha"], chosen["test_loss"])


def test_without_validation_images_the_middle_is_reported(study_config, start, runtime, tmp_path):
  _, between = measure(fine_tuning(study_config, interpolate=(0.1, 0.6)), start, tmp_path, runtime())
  assert between["alpha"] == 0.6


def test_the_control_trains_fresh_weights_with_moving_statistics(study_config, start, runtime, tmp_path):
  task = spec(tiny_config()["task"])
  protocols = fine_tuning(study_config, from_scratch=True, task=task)
  (row,) = measure(protocols, start, tmp_path, runtime())
  weights, target = tuned(tmp_path), protocols.targets["two"]
  num_train = len(runtime().open(target.train))
  experiment = fine_tuning_of(protocols.fine_tune, target, start.model_spec(trust=True), num_train)
  alone = train.run(experiment, seed=0, runtime=runtime()).weights
  jax.tree.map(np.testing.assert_array_equal, weights.params, alone.params)
  assert any(
    np.any(x != y)
    for x, y in zip(jax.tree.leaves(weights.batch_stats), jax.tree.leaves(start.batch_stats), strict=True)
  )
  moved = tree.select(weights.batch_stats, "mean$")
  assert all(np.any(x) for x in moved.values())
  assert row["steps"] == 12


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    (dict(from_scratch=True, head="probe"), "fine_tune.from_scratch trains fresh weights"),
    (
      dict(from_scratch=True, task=spec(dict(tiny_config()["task"], frozen_stats=True))),
      "fine_tune.from_scratch needs normalisation statistics that move",
    ),
    (dict(from_scratch=True, interpolate=(0.5,)), "fine_tune.from_scratch trains fresh weights"),
    (dict(interpolate=(1.5,)), "different shares from 0 to 1"),
    (dict(interpolate=(0.5, 0.5)), "different shares from 0 to 1"),
    (
      dict(interpolate=(0.5,), adapter=spec(dict(make=".models.lora"))),
      "fine_tune.interpolate mixes the weights .* leave out one of the two",
    ),
    (dict(curve=Curve(), evaluate_every_epochs=None), "fine_tune.curve has a row for each evaluation"),
  ],
)
def test_settings_that_do_not_go_together_are_refused(changes, sentence):
  config = tiny_config()
  given = dict(task=spec(config["task"]), optimizer=spec(config["optimizer"]), epochs=1.0)
  with pytest.raises(ConfigError, match=sentence):
    FineTune(**given | changes)


def test_a_curve_needs_an_example():
  with pytest.raises(ConfigError, match="num_examples"):
    Curve(num_examples=0)
