"""What is measured at a checkpoint, beside dense references and in other ways."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxtl import curvature, losses, train, tree, weights
from jaxtl.config import parse
from jaxtl.errors import ConfigError, InputError, NonFiniteLossError
from jaxtl.measure.images import subset
from jaxtl.measure.landscape import Landscape
from jaxtl.measure.settings import Plane, Sharpness, Slice, Spectrum
from jaxtl.tasks import CROSS_ENTROPY
from jaxtl.train import Experiment
from tests.measure.landscapes import scene_of
from tests.small_training import tiny_config

pytestmark = pytest.mark.slow

HINGE = functools.partial(losses.multiclass_smoothed_hinge, margin=2.0)


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


def test_the_loss_along_a_line_has_the_curvature_that_is_told(runtime, settings):
  """Second differences along the eigenvector are its eigenvalue; all lines agree at the weights.

  The network is smooth: of one with ReLU a second difference of any step that float32 resolves also has the
  kinks that the step crosses, which no Hessian has.
  """
  smooth = dict(make=".models.vit_ti16", image_size=8, patch_size=4, width=16, depth=2, num_heads=2)
  experiment = parse(tiny_config(epochs=2.0, model=smooth), Experiment)
  trained = train.run(experiment, seed=0, runtime=runtime())
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
  there = other.weights.params, other.weights.batch_stats
  *_, line = scene.slices(Slice(num_points=num_points), trained.weights.params, there)
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


@pytest.mark.parametrize(("num_examples", "count", "size"), [(5, 1, 5), (5, 8, 8), (48, 1, 16)])
def test_a_few_images_are_not_padded_to_a_large_batch(runtime, settings, num_examples, count, size):
  """16 images make a batch: 5 images are 5, or as many as there are devices."""
  [*_, last] = subset(settings.data, runtime(count), num_examples=num_examples, seed=0)
  assert len(last["mask"]) == size


def changed(trained, runtime, settings, *, params=lambda p: p, stats=lambda s: s):
  """A scene of weights or statistics that are not those of the training."""
  own = trained.weights
  params, stats = (
    fn(jax.tree.map(np.array, x)) for fn, x in ((params, own.params), (stats, own.batch_stats))
  )
  loss, count = CROSS_ENTROPY, settings.num_examples
  return Landscape.of(
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
  with pytest.raises(NonFiniteLossError, match="the loss is nan, although all parameters are") as error:
    scene.facts()
  assert error.value.code == 4
  assert "\n" not in str(error.value)


def test_a_warm_start_takes_fewer_products(runtime, checkpointed, settings):
  _, trained = checkpointed
  scene = scene_of(trained, runtime(), settings)
  cold = scene.extremes(num_iters=300, tolerance=1e-3)
  nearby = dataclasses.replace(scene, params=tree.scale(1.001, scene.params))
  warm = nearby.extremes(num_iters=300, tolerance=1e-3, start=cold.by_magnitude.vector)
  assert warm.num_products < nearby.extremes(num_iters=300, tolerance=1e-3).num_products


SMALL = Spectrum(num_eigenvalues=2, max_products=4, tolerance=1e-6, num_probes=2, num_steps=3)


@pytest.mark.parametrize(
  ("change", "keys"),
  [
    (dict(num_eigenvalues=1), ("eigenvalues",)),
    (dict(max_products=5), ("eigenvalues", "eigenvalue_residuals")),
    (dict(tolerance=10.0), ("eigenvalues", "eigenvalue_residuals")),
    (dict(num_probes=3), ("trace", "effective_dimension", "gauss_newton_trace", "density_nodes")),
    (dict(num_steps=2), ("effective_dimension", "density_nodes")),
    (dict(alpha=0.1), ("effective_dimension", "alpha")),
  ],
)
def test_every_option_of_the_spectrum_changes_its_numbers(runtime, checkpointed, settings, change, keys):
  scene = scene_of(checkpointed[1], runtime(), settings)
  plain = scene.spectrum(SMALL)
  found = scene.spectrum(dataclasses.replace(SMALL, **change))
  assert all(found[key] != plain[key] for key in keys)
  if "tolerance" in change:  # enough is enough, after as many products as there are eigenvalues
    assert max(found["eigenvalue_residuals"]) > max(plain["eigenvalue_residuals"])


def test_more_eigenvalues_than_parameters_are_refused(runtime, checkpointed, settings):
  scene = scene_of(checkpointed[1], runtime(), settings)
  count = tree.size(scene.params)
  with pytest.raises(ConfigError, match=f"k is {count + 1}; the matrix has {count} eigenvalues"):
    scene.spectrum(Spectrum(num_eigenvalues=count + 1, max_products=count + 1))


@pytest.mark.parametrize("option", ["span", "eigen_span", "num_points"])
def test_every_option_of_lines_changes_them(runtime, checkpointed, settings, option):
  scene = scene_of(checkpointed[1], runtime(), settings)
  eigenvector = tree.random_like(jax.random.key(0), scene.params)
  plain, found = (
    {row["direction"]: row for row in scene.slices(Slice(**plan), eigenvector, None)}
    for plan in (dict(num_points=3), {"num_points": 3} | {option: {"num_points": 5}.get(option, 0.25)})
  )
  moved = {"span": ("random",), "eigen_span": ("eigenvector",)}.get(option, ("random", "eigenvector"))
  for direction in ("random", "eigenvector"):
    assert (found[direction] != plain[direction]) == (direction in moved)
    half = (len(found[direction]["values"])) // 2
    assert found[direction]["values"][half] == pytest.approx(plain[direction]["values"][1], rel=1e-6)
  if option != "num_points":
    assert found[moved[0]]["coordinates"] == [-0.25, 0, 0.25]


def test_every_option_of_a_plane_changes_what_it_says(runtime, checkpointed, settings):
  scene = scene_of(checkpointed[1], runtime(), settings)
  eigenvector = scene.extremes(num_iters=5, tolerance=0.5).algebraic.vector
  plain, narrow, fine, together, steep = (
    scene.plane(Plane(**(dict(num_points=3) | change)), eigenvector)
    for change in ({}, dict(span=0.25), dict(num_points=5), dict(points_per_call=4), dict(axes="eigenvector"))
  )
  assert narrow["coordinates"] == [-0.25, 0, 0.25]
  assert np.ptp(narrow["values"]) < np.ptp(plain["values"])
  assert np.shape(fine["values"]) == (5, 5)
  np.testing.assert_allclose(np.array(fine["values"])[::2, ::2], plain["values"], rtol=1e-5)
  np.testing.assert_allclose(together["values"], plain["values"], rtol=1e-5)  # in fewer calls, the same
  assert steep["values"] != plain["values"]
  assert (plain["axes"], steep["axes"]) == ("random", "eigenvector")


def test_points_per_call_are_computed_together(runtime, checkpointed, settings, monkeypatch):
  scene = scene_of(checkpointed[1], runtime(), settings)
  seen = []
  real = weights.surface
  record = lambda *a, **keywords: seen.append(keywords["points_per_call"]) or real(*a, **keywords)  # noqa: E731
  monkeypatch.setattr(weights, "surface", record)
  for count in (1, 4):
    scene.plane(Plane(num_points=3, points_per_call=count), scene.params)
  assert seen == [1, 4]


def test_a_plane_along_the_eigenvector_has_two_axes_of_one_length_at_right_angles(
  runtime, checkpointed, settings
):
  scene = scene_of(checkpointed[1], runtime(), settings)
  vector = tree.random_like(jax.random.key(0), scene.params)
  first, second = scene.axes(Plane(axes="eigenvector"), vector)
  lengths = float(tree.norm(first)), float(tree.norm(second))
  assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)
  assert abs(float(tree.dot(first, second))) < 1e-4 * lengths[0] * lengths[1]
  assert float(tree.dot(first, vector)) == pytest.approx(lengths[0] * float(tree.norm(vector)), rel=1e-4)
