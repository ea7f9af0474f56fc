"""Flatness of a checkpoint that exists, and during training; transfer of one that exists."""

import dataclasses
import functools
import io
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxtl import curvature, losses, train, tree
from jaxtl.config import parse
from jaxtl.errors import CheckpointError, ConfigError, DataError, InputError, NonFiniteError, Restart
from jaxtl.studies import report, study
from jaxtl.studies.flatness_plans import Layers, Sharpness, Slice, Spectrum
from jaxtl.studies.lambda_max import Flatness, Trail
from jaxtl.studies.scene import Scene, subset
from jaxtl.train import Experiment
from jaxtl.train.writer import Progress
from tests.train.conftest import tiny_config

HINGE = functools.partial(losses.multiclass_smoothed_hinge, margin=2.0)


@pytest.fixture
def checkpointed(runtime, tmp_path):
  experiment = parse(tiny_config(epochs=2.0), Experiment)
  trained = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "start")
  return str(tmp_path / "start"), trained


def test_transfer_starts_from_a_checkpoint(study_config, runtime, tmp_path, checkpointed):
  base = dict(start=checkpointed[0], transfer=study_config["base"]["transfer"])
  config = dict(study=".studies.transfer.rows", base=base, arms=dict(a=dict()), seeds=[0])
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert [(row["target"], row["protocol"]) for row in rows] == [("two", "linear_probe"), ("two", "fine_tune")]
  base["start"] = str(tmp_path / "nowhere")
  with pytest.raises(CheckpointError, match="there is no such folder"):
    study.run_study(config, workdir=tmp_path / "other", runtime=runtime())


def scene_of(trained, runtime, settings, loss=losses.softmax_cross_entropy):
  weights = trained.weights
  return Scene.of(
    trained.program.model,
    weights.params,
    weights.batch_stats,
    loss,
    settings.data,
    runtime,
    num_examples=settings.num_examples,
    seed=settings.seed,
  )


@pytest.fixture
def settings(study_config):
  return parse(study_config["base"]["flatness"] | dict(num_iters=300, tolerance=1e-3), Flatness)


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, HINGE])
def test_the_gauss_newton_product_is_that_of_the_dense_jacobian(runtime, checkpointed, settings, loss):
  scene = scene_of(checkpointed[1], runtime(), settings, loss)
  flat, unflatten = ravel_pytree(scene.params)
  vector = tree.random_like(jax.random.key(5), flat)
  total, count = np.zeros(flat.shape), 0.0
  for batch in scene.passes(0.0)():

    def logits(point, batch=batch):
      return scene.model.apply(unflatten(point), batch["batch_stats"], batch["image"])[0]["logits"]

    def summed(outputs, batch=batch):
      return jnp.sum(loss(outputs, batch["label"]) * batch["mask"])

    jacobian, outputs = jax.jacrev(logits)(flat), logits(flat)
    size = outputs.size
    inner = jax.hessian(summed)(outputs).reshape(size, size)
    jacobian = np.asarray(jacobian).reshape(size, -1)
    total += jacobian.T @ (inner @ (jacobian @ vector))
    count += float(jnp.sum(batch["mask"]))
  product = scene.gauss_newton(unflatten(vector))
  np.testing.assert_allclose(
    ravel_pytree(product)[0], total / count, rtol=1e-3, atol=1e-4 * abs(total / count).max()
  )


def test_the_effective_dimension_is_that_of_the_gauss_newton_matrix(runtime, checkpointed, settings):
  scene = scene_of(checkpointed[1], runtime(), settings)
  row = scene.spectrum(Spectrum(max_products=3, num_probes=4, num_steps=12, alpha=0.5))
  again = curvature.spectral_density(
    scene.gauss_newton, scene.params, jax.random.key(3), num_samples=16, num_steps=12
  )
  for name, other in (
    ("effective_dimension", again.effective_dimension(alpha=0.5)),
    ("gauss_newton_trace", again.trace()),
  ):
    error = np.hypot(row[f"{name}_error"], other.standard_error)
    assert abs(row[name] - other.value) < 4 * error
  assert row["effective_dimension_change"] < row["effective_dimension_error"]


def test_flatness_is_the_largest_eigenvalue_that_arpack_finds(runtime, checkpointed, settings):
  _, trained = checkpointed
  scene = scene_of(trained, runtime(), settings)
  found = scene.extremes(num_iters=300, tolerance=1e-3).algebraic
  batches = list(subset(settings.data, runtime(), num_examples=48, seed=0))
  flat, unflatten = ravel_pytree(trained.weights.params)
  model = trained.program.model

  def loss(vector):
    values = []
    for batch in batches:
      logits = model.apply(unflatten(vector), trained.weights.batch_stats, batch["image"])[0]["logits"]
      values.append(losses.softmax_cross_entropy(logits, batch["label"])[np.asarray(batch["mask"])])
    return jnp.mean(jnp.concatenate(values))

  # The dense Hessian is too large; its extreme eigenvalue by ARPACK is not.
  from scipy.sparse.linalg import LinearOperator, eigsh

  product = jax.jit(lambda v: jax.jvp(jax.grad(loss), (flat,), (v,))[1])
  operator = LinearOperator(
    (flat.size, flat.size), matvec=lambda v: np.asarray(product(jnp.asarray(v, jnp.float32)))
  )
  reference = eigsh(operator, k=1, which="LA", return_eigenvectors=False, tol=1e-5)[0]
  assert found.converged
  assert found.value == pytest.approx(float(reference), rel=1e-3)
  assert scene.images["num_examples"] == 48
  by_lanczos = scene.spectrum(Spectrum(num_eigenvalues=2, max_products=60, num_probes=2, num_steps=2))
  assert by_lanczos["eigenvalues"][0] == pytest.approx(float(reference), rel=1e-3)


def test_blocks_are_diagonal_blocks_and_no_larger_than_the_whole(runtime, checkpointed, settings):
  _, trained = checkpointed
  scene = scene_of(trained, runtime(), settings)
  whole = scene.extremes(num_iters=300, tolerance=1e-3).algebraic.value
  found = list(scene.layers(Layers(max_products=40, tolerance=1e-3, num_probes=2)))
  assert [row["layer"] for row in found] == list(trained.program.model.blocks)
  assert sum(row["layer_parameters"] for row in found) == scene.facts()["num_parameters"]
  assert all(row["layer_lambda_max"] <= whole * 1.001 for row in found)
  kernels = list(scene.layers(Layers(max_products=2, num_probes=2, where="kernel$")))
  assert sum(row["layer_parameters"] for row in kernels) < scene.facts()["num_parameters"]


def test_the_loss_along_a_line_has_the_curvature_that_is_told(runtime, checkpointed, settings):
  """Second differences along the eigenvector are its eigenvalue; all lines agree at the weights."""
  _, trained = checkpointed
  scene = scene_of(trained, runtime(), settings)
  pair = scene.extremes(num_iters=300, tolerance=1e-3).algebraic
  lines = {
    row["direction"]: row for row in scene.slices(Slice(num_points=3, eigen_span=0.03), pair.vector, None)
  }
  low, middle, high = lines["eigenvector"]["values"]
  assert (low + high - 2 * middle) / 0.03**2 == pytest.approx(pair.value, rel=0.05)
  assert lines["random"]["coordinates"][1] == 0
  assert lines["random"]["values"][1] == middle == pytest.approx(scene.facts()["mean_loss"], rel=1e-6)


@pytest.mark.parametrize("num_points", [3, 21])
def test_a_line_to_another_checkpoint_ends_there(runtime, checkpointed, settings, num_points):
  """Its place 1 is the other one's loss, with its own statistics."""
  _, trained = checkpointed
  other = train.run(parse(tiny_config(epochs=1.0), Experiment), seed=1, runtime=runtime())
  scene = scene_of(trained, runtime(), settings)
  weights = other.weights.params, other.weights.batch_stats
  *_, line = scene.slices(Slice(num_points=num_points), trained.weights.params, weights)
  assert line["direction"] == "towards"
  at = dict(zip(line["coordinates"], line["values"]))
  assert at[0.0] == pytest.approx(scene.facts()["mean_loss"], rel=1e-5)
  assert at[1.0] == pytest.approx(scene_of(other, runtime(), settings).facts()["mean_loss"], rel=1e-4)


def test_a_measurement_on_eight_devices_is_that_on_one(runtime, checkpointed, settings):
  _, trained = checkpointed
  scenes = [scene_of(trained, runtime(count), settings) for count in (1, 8)]
  values = [scene.extremes(num_iters=300, tolerance=1e-3).algebraic.value for scene in scenes]
  assert values[1] == pytest.approx(values[0], rel=1e-5)
  sharp = [scene.sharpness(Sharpness(num_samples=2, num_steps=2)) for scene in scenes]
  for key, value in sharp[0].items():
    assert sharp[1][key] == pytest.approx(value, rel=1e-3, abs=1e-6), key


def test_every_option_of_sharpness_changes_its_number(runtime, checkpointed, settings):
  _, trained = checkpointed
  scene = scene_of(trained, runtime(), settings)
  plain = scene.sharpness(Sharpness(num_samples=2, num_steps=2))
  for change, keys in (
    (dict(rho=0.1), ("sam_first_order", "sam_sharpness")),
    (dict(adaptive_rho=0.2), ("adaptive_sam_sharpness",)),
    (dict(sigma=0.02), ("average_sharpness",)),
    (dict(adaptive_sigma=0.1), ("adaptive_average_sharpness",)),
    (dict(num_samples=3), ("average_sharpness", "relative_flatness")),
  ):
    found = scene.sharpness(Sharpness(**(dict(num_samples=2, num_steps=2) | change)))
    assert all(found[key] != plain[key] for key in keys), change
  assert scene.sharpness(Sharpness(num_samples=2, num_steps=1))["sam_sharpness"] == plain["sam_first_order"]


SMALL = dict(
  spectrum=dict(num_eigenvalues=2, max_products=6, num_probes=2, num_steps=3),
  layers=dict(max_products=2, num_probes=2),
  sharpness=dict(num_steps=1, num_samples=2),
  slice=dict(num_points=3),
  plane=dict(num_points=3),
)


@pytest.fixture
def flatness_config(checkpointed, study_config):
  base = dict(start=checkpointed[0], flatness=study_config["base"]["flatness"], **SMALL)
  return dict(study=".studies.flatness.rows", base=base, arms=dict(a=dict()), seeds=[0])


def test_a_study_measures_every_part_and_draws_another_subset_for_another_seed(
  runtime, tmp_path, flatness_config
):
  config = flatness_config | dict(seeds=[0, 1])
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  # The checkpoint was trained with the cross-entropy, so there is no second loss.
  assert {row["loss"] for row in rows} == {"cross_entropy"}
  assert [row["kind"] for row in rows[:1]] == ["flatness"]
  assert {row["kind"] for row in rows} == {"flatness", "layer", "slice", "plane"}
  first, second = (row for row in rows if row["kind"] == "flatness")
  assert first["lambda_max"] != second["lambda_max"]
  found = {key: first[key] for key in ("num_examples", "precision", "batch_norm", "images", "seed_of_images")}
  assert found == dict(
    num_examples=48,
    precision="float32 parameters",
    batch_norm="stored statistics",
    images="squares",
    seed_of_images=0,
  )
  assert first["sharpness_plan"]["rho"] == 0.05
  assert (first["compute_type"], first["step_folder"], len(first["weights"])) == ("float32", "12", 16)
  page = report.write(tmp_path / "run", tmp_path / "page").read_text(encoding="utf-8")
  for text in (
    "Curvature of the cross-entropy",
    "Blocks, cross-entropy",
    "Density of the Hessian",
    "Precision",
  ):
    assert text in page


class Counted(Progress):
  """Adds up what is announced and what is done, and keeps the notes."""

  def __init__(self):
    super().__init__(stream=io.StringIO())
    self.notes, self.shares = [], []

  def note(self, text):
    self.notes.append(text)

  def advance(self, work, text, **keywords):
    super().advance(work, text, **keywords)
    self.shares.append(self._done / self._expected)

  @property
  def left(self):
    return self._expected - self._done


def test_progress_names_every_part_and_ends_with_nothing_left(runtime, tmp_path, flatness_config):
  here = runtime()
  here.progress = Counted()
  study.run_study(flatness_config, workdir=tmp_path / "run", runtime=here)
  said = "\n".join(here.progress.notes)
  for part in ("λ_max", "spectrum: trace", "sharpness", "block head", "lines", "plane"):
    assert said.count(f"a/0 | cross-entropy | {part}") == 1, part
  assert here.progress.left == pytest.approx(0, abs=1e-6)  # of about 3000
  assert 0 < min(here.progress.shares) < 0.1
  assert max(here.progress.shares) <= 1 + 1e-9

  (tmp_path / "run" / "a" / "0" / "rows.jsonl").unlink()
  again = runtime()
  again.progress = Counted()
  study.run_study(flatness_config, workdir=tmp_path / "run", runtime=again)
  assert again.progress.left == pytest.approx(0, abs=1e-6)  # what was measured before is not announced
  assert again.progress.shares == []


@pytest.mark.parametrize(("num_examples", "count", "size"), [(5, 1, 5), (5, 8, 8), (48, 1, 16)])
def test_a_few_images_are_not_padded_to_a_large_batch(runtime, settings, num_examples, count, size):
  """16 images make a batch: 5 images are 5, or as many as there are devices."""
  [*_, last] = subset(settings.data, runtime(count), num_examples=num_examples, seed=0)
  assert len(last["mask"]) == size


def test_a_study_that_was_killed_goes_on_with_what_it_had_measured(runtime, tmp_path, flatness_config):
  parts = dict(layers=None, plane=None, slice=None, sharpness=None, spectrum=None)
  config = flatness_config | dict(base=flatness_config["base"] | parts)
  first = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  measured = tmp_path / "run" / "a" / "0" / "cross_entropy.json"
  (measured.parent / "rows.jsonl").unlink()
  written = measured.stat().st_mtime_ns
  again = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert measured.stat().st_mtime_ns == written
  assert again[0]["lambda_max"] == first[0]["lambda_max"]


def test_a_checkpoint_of_another_loss_is_measured_by_that_too(runtime, tmp_path, flatness_config):
  hinge = dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0)
  changed = tiny_config(epochs=1.0, task=dict(make=".tasks.classification", loss=hinge))
  train.run(parse(changed, Experiment), seed=0, runtime=runtime(), workdir=tmp_path / "hinge")
  parts = dict(layers=None, plane=None, slice=None, sharpness=None)
  config = flatness_config | dict(base=flatness_config["base"] | parts | dict(start=str(tmp_path / "hinge")))
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert [(row["loss"], row["differentiated"]) for row in rows] == [
    ("cross_entropy", "softmax_cross_entropy"),
    ("training", "multiclass_smoothed_hinge(margin=7)"),
  ]
  assert rows[0]["lambda_max"] != rows[1]["lambda_max"]
  page = report.write(tmp_path / "run", tmp_path / "page").read_text(encoding="utf-8")
  assert "rows cannot be compared with each other" in page


def test_data_without_transforms_are_prepared_as_the_checkpoint_says(runtime, tmp_path, flatness_config):
  parts = dict(layers=None, plane=None, slice=None, sharpness=None, spectrum=None)
  base = flatness_config["base"] | parts
  own = base | dict(flatness=base["flatness"] | dict(data=base["flatness"]["data"] | dict(transforms=[])))
  found = [
    study.run_study(flatness_config | dict(base=one), workdir=tmp_path / str(i), runtime=runtime())
    for i, one in enumerate((base, own))
  ]
  assert found[0][0]["lambda_max"] == found[1][0]["lambda_max"]
  assert [row["kind"] for row in found[0]] == ["flatness"]


def test_images_of_other_classes_are_refused(runtime, tmp_path, flatness_config):
  data = flatness_config["base"]["flatness"]["data"]
  data["source"] = data["source"] | dict(names="xyz")
  with pytest.raises(DataError, match="other classes") as error:
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_other_weights_at_the_same_place_are_refused(runtime, tmp_path, flatness_config):
  """An interrupted study must not mix the numbers of two weights."""
  config = flatness_config | dict(seeds=[0, 1])
  parts = dict(layers=None, plane=None, slice=None, sharpness=None, spectrum=None)
  config["base"] = config["base"] | parts
  study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  (tmp_path / "run" / "a" / "1" / "rows.jsonl").unlink()
  shutil.rmtree(flatness_config["base"]["start"])
  longer = parse(tiny_config(epochs=3.0), Experiment)
  train.run(longer, seed=0, runtime=runtime(), workdir=Path(flatness_config["base"]["start"]))
  with pytest.raises(InputError, match="begun with other weights") as error:
    study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert "\n" not in str(error.value)
  config["base"] = config["base"] | dict(digest="0" * 16)
  with pytest.raises(InputError, match="the config says 0000"):
    study.run_study(config, workdir=tmp_path / "another", runtime=runtime())


@pytest.mark.parametrize(
  ("where", "message"), [("kernell$", "matches no parameter"), ("kernel[", "is not a regex")]
)
def test_a_misspelt_name_of_parameters_is_refused(runtime, tmp_path, flatness_config, where, message):
  flatness_config["base"]["layers"] = dict(where=where)
  with pytest.raises(ConfigError, match=message):
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())
  assert not (tmp_path / "run").exists()


def test_a_line_to_a_checkpoint_of_another_model_is_refused(runtime, tmp_path, flatness_config):
  wider = parse(tiny_config(epochs=1.0, model=dict(make=".models.resnet8", width=8)), Experiment)
  train.run(wider, seed=0, runtime=runtime(), workdir=tmp_path / "wider")
  flatness_config["base"]["slice"] = dict(towards=str(tmp_path / "wider"))
  with pytest.raises(InputError, match="do not match") as error:
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_compute_in_bfloat16_is_told(runtime, tmp_path, flatness_config):
  half = dict(make=".models.resnet8", width=4, dtype="bfloat16")
  train.run(
    parse(tiny_config(epochs=1.0, model=half), Experiment),
    seed=0,
    runtime=runtime(),
    workdir=tmp_path / "half",
  )
  parts = dict(layers=None, plane=None, slice=None, sharpness=None, spectrum=None)
  base = flatness_config["base"] | parts | dict(start=str(tmp_path / "half"))
  [row] = study.run_study(flatness_config | dict(base=base), workdir=tmp_path / "run", runtime=runtime())
  assert (row["compute_type"], row["precision"]) == ("bfloat16", "float32 parameters")
  assert np.isfinite(row["lambda_max"])


@pytest.mark.parametrize(
  ("part", "change", "message"),
  [
    ("spectrum", dict(num_eigenvalues=0), "num_eigenvalues is 0"),
    ("spectrum", dict(max_products=1), "max_products is 1"),
    ("spectrum", dict(num_probes=1), "num_probes is 1"),
    ("spectrum", dict(alpha=0.0), "alpha is 0.0"),
    ("layers", dict(num_probes=1), "num_probes is 1"),
    ("layers", dict(max_products=0), "max_products is 0"),
    ("sharpness", dict(rho=-0.1), "rho is -0.1"),
    ("sharpness", dict(num_samples=1), "num_samples is 1"),
    ("slice", dict(num_points=4), "num_points is 4"),
    ("slice", dict(eigen_span=0.0), "eigen_span is 0.0"),
    ("plane", dict(span=0.0), "span is 0.0"),
  ],
)
def test_impossible_plans_are_refused(flatness_config, part, change, message):
  flatness_config["base"][part] = flatness_config["base"][part] | change
  with pytest.raises(ConfigError, match=message):
    study.parse_config(flatness_config)


def changed(trained, runtime, settings, *, params=lambda p: p, stats=lambda s: s):
  """A scene of weights or statistics that are not those of the training."""
  weights = trained.weights
  params, stats = (
    fn(jax.tree.map(np.array, x)) for fn, x in ((params, weights.params), (stats, weights.batch_stats))
  )
  loss, count = losses.softmax_cross_entropy, settings.num_examples
  return Scene.of(
    trained.program.model, params, stats, loss, settings.data, runtime, num_examples=count, seed=0
  )


def with_nan(path):
  return lambda values: tree.map_with_path(lambda at, x: x * np.nan if at == path else x, values)


def test_weights_and_statistics_that_are_not_finite_are_named(runtime, checkpointed, settings):
  _, trained = checkpointed
  with pytest.raises(InputError, match="the parameter 'head/kernel' is not finite"):
    changed(trained, runtime(), settings, params=with_nan("head/kernel")).facts()
  path = tree.paths(trained.weights.batch_stats)[0]
  with pytest.raises(InputError, match=f"the statistic '{path}' is not finite"):
    changed(trained, runtime(), settings, stats=with_nan(path)).facts()


def test_finite_weights_that_are_too_large_are_told_apart(runtime, checkpointed, settings):
  scene = changed(checkpointed[1], runtime(), settings, params=lambda p: tree.scale(1e37, p))
  with pytest.raises(NonFiniteError, match="the loss is nan, although all parameters are finite") as error:
    scene.facts()
  assert error.value.code == 4
  assert "\n" not in str(error.value)


def test_a_missing_checkpoint_is_refused_before_anything(runtime, tmp_path, flatness_config):
  flatness_config["base"]["start"] = str(tmp_path / "nowhere")
  with pytest.raises(CheckpointError, match="there is no such folder"):
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())
  assert not (tmp_path / "run").exists()


def observing(runtime, folder, steps, *, period, num_iters=200):
  """The flatness records of a run that measures every `period` steps; stopped after `steps` where given."""
  plain = [dict(fn=".data.normalize")]
  data = dict(source=dict(make="tests.train.conftest.squares"), transforms=plain, batch_size=16)
  base = tiny_config(
    epochs=2.0,
    checkpoint_every=4,
    flatness=dict(data=data, num_examples=48, num_iters=num_iters, tolerance=1e-3, evaluate_every=period),
  )
  config = dict(study=".studies.pretrain.rows", seeds=[0], base=base, arms=dict(a=dict()))
  here = runtime()
  if steps is not None:
    here.interruption = StopAfter(steps)
    with pytest.raises(Restart):
      study.run_study(config, workdir=folder, runtime=here)
  else:
    study.run_study(config, workdir=folder, runtime=here)
  lines = (folder / "a" / "0" / "metrics.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  return {r["step"]: r for r in records if "flatness/lambda_max" in r}


class StopAfter:
  def __init__(self, step):
    self.step = step

  def due(self, step):
    return step >= self.step


def test_the_observer_goes_on_from_its_last_eigenvector(runtime, tmp_path, monkeypatch):
  warm = observing(runtime, tmp_path / "warm", None, period=2)
  assert sorted(warm) == [2, 4, 6, 8, 10, 12]
  monkeypatch.setattr(Trail, "before", lambda *_: None)
  cold = observing(runtime, tmp_path / "cold", None, period=2)
  products = [sum(r["flatness/num_products"] for r in found.values()) for found in (warm, cold)]
  assert products[0] < products[1]
  assert warm[2]["flatness/num_products"] == cold[2]["flatness/num_products"]
  monkeypatch.undo()
  assert sorted(observing(runtime, tmp_path / "by_checkpoint", None, period=None)) == [4, 8, 12]


def test_a_run_that_measures_again_measures_the_same(runtime, tmp_path):
  """Killed behind a measurement that no checkpoint has: it is made again, from the same vector."""
  whole = observing(runtime, tmp_path / "whole", None, period=2)
  observing(runtime, tmp_path / "killed", 7, period=2)
  shutil.rmtree(tmp_path / "killed" / "a" / "0" / "checkpoints" / "7")  # as if it had not been saved
  resumed = observing(runtime, tmp_path / "killed", None, period=2)
  numbers = lambda found: {  # noqa: E731
    step: {key: value for key, value in record.items() if "flatness/" in key and "seconds" not in key}
    for step, record in found.items()
  }
  assert numbers(resumed) == numbers(whole)


def test_a_warm_start_takes_fewer_products(runtime, checkpointed, settings):
  _, trained = checkpointed
  scene = scene_of(trained, runtime(), settings)
  cold = scene.extremes(num_iters=300, tolerance=1e-3)
  nearby = dataclasses.replace(scene, params=tree.scale(1.001, scene.params))
  warm = nearby.extremes(num_iters=300, tolerance=1e-3, start=cold.by_magnitude.vector)
  assert warm.num_products < nearby.extremes(num_iters=300, tolerance=1e-3).num_products


def test_old_eigenvectors_go_and_damaged_ones_are_started_without(runtime, tmp_path):
  like = {"a": jnp.ones(3)}
  trail = Trail(tmp_path / "v", 2, 4, runtime().mesh)
  half = Trail(tmp_path / "half", 2, 4, runtime().mesh)
  half.keep(2, {"a": jnp.ones(3, jnp.bfloat16)})
  np.testing.assert_array_equal(half.before(4, {"a": jnp.ones(3, jnp.bfloat16)})["a"], np.ones(3))
  assert trail.before(2, like) is None
  for step in range(2, 14, 2):
    trail.keep(step, tree.scale(float(step), like))
  assert sorted(int(path.name.split(".")[0]) for path in trail.folder.iterdir()) == [6, 8, 10, 12]
  np.testing.assert_array_equal(trail.before(10, like)["a"], 8 * np.ones(3))
  assert trail.before(15, like) is None  # 12 is not the measurement before
  for torn in (b"torn", b""):
    (trail.folder / "8.0.npz").write_bytes(torn)
    assert trail.before(10, like) is None
  assert trail.before(12, {"b": jnp.ones(3)}) is None
