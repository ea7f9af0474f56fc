"""Loss surfaces: closed forms, the data's part, and the invariance that the filters' norms give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import tree, weights
from jaxtl.errors import ConfigError, DataError, InputError

KEY = jax.random.key(0)


def squares(params, batch):
  """Sum over examples of |w - x|^2 / 2."""
  each = 0.5 * jnp.sum((params["w"][None, :] - batch) ** 2, axis=1)
  return each.sum(), jnp.float32(len(batch))


W = {"w": jnp.array([1.0, -2.0, 0.5])}
X = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
D1, D2 = {"w": jnp.array([1.0, 2.0, 3.0])}, {"w": jnp.array([-1.0, 0.0, 2.0])}


def expected_at(*steps):
  moved = np.asarray(W["w"], np.float64) + sum(c * np.asarray(d["w"], np.float64) for c, d in steps)
  return 0.5 * np.mean(np.sum((moved - X) ** 2, axis=1))


@pytest.mark.parametrize("points_per_call", [1, 2, 5, 100])
def test_a_line_of_a_quadratic_form(points_per_call):
  axis = np.linspace(-1, 1, 5)
  found = weights.surface(squares, W, [X], [D1], [axis], points_per_call=points_per_call)
  assert found.dtype == np.float64
  np.testing.assert_allclose(found, [expected_at((c, D1)) for c in axis], rtol=1e-6)


@pytest.mark.parametrize("points_per_call", [1, 4, 100])
def test_a_plane_has_the_first_direction_as_rows(points_per_call):
  rows, columns = [-1.0, 0.0, 2.0], [0.0, 0.5]
  found = weights.surface(squares, W, [X], [D1, D2], [rows, columns], points_per_call=points_per_call)
  expected = [[expected_at((a, D1), (b, D2)) for b in columns] for a in rows]
  assert found.shape == (3, 2)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(10,), (4, 4, 2), (1,) * 10])
@pytest.mark.parametrize("as_factory", [False, True])
def test_the_mean_is_over_examples_not_batches(sizes, as_factory):
  batches = np.split(X, np.cumsum(sizes)[:-1])
  found = weights.surface(squares, W, (lambda: iter(batches)) if as_factory else batches, [D1], [[0.3]])
  np.testing.assert_allclose(found, [expected_at((0.3, D1))], rtol=1e-6)


def test_data_are_read_once_and_compiled_once():
  reads, traces = [], []

  def batches():
    reads.append(1)
    return [X, X]

  def loss_fn(params, batch):
    traces.append(1)
    return squares(params, batch)

  for start in (W, tree.scale(2.0, W)):
    weights.surface(loss_fn, start, batches, [D1, D2], [[0, 1, 2], [0, 1, 2]], points_per_call=2)
  assert len(reads) == 2
  assert len(traces) == 2  # the two points of the one compiled call


def test_losses_that_are_not_finite_stay_in_the_surface():
  def loss_fn(params, batch):
    return jnp.log(params["w"][0]) + 0 * batch.sum(), 1.0

  found = weights.surface(loss_fn, {"w": jnp.ones(1)}, [X, X], [{"w": jnp.ones(1)}], [[-2.0, -1.0, 0.0]])
  assert np.isnan(found[0])
  assert found[1] == -np.inf
  assert found[2] == 0


def test_infinities_of_both_signs_make_nan_without_a_warning(recwarn):
  loss_fn = lambda params, sign: (sign * jnp.exp(params["w"][0]), 1.0)  # noqa: E731
  found = weights.surface(loss_fn, W, [1.0, -1.0], [{"w": 1000 * W["w"]}], [[0.0, 1.0]])
  assert found[0] == 0
  assert np.isnan(found[1])
  assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_sums_of_half_precision_losses_grow_beyond_their_resolution():
  loss_fn = lambda params, one: (one * params["w"][0], jnp.bfloat16(1))  # noqa: E731
  params = {"w": jnp.ones(1, jnp.bfloat16)}
  found = weights.surface(loss_fn, params, [jnp.bfloat16(1)] * 1000, [params], [[0.0]])
  assert found[0] == 1.0  # bfloat16 would stop growing at 256


def conv_net(params, x, *, normalized):
  numbers = ("NHWC", "HWIO", "NHWC")
  for name in ("first", "second"):
    x = jax.lax.conv_general_dilated(x, params[name], (1, 1), "SAME", dimension_numbers=numbers)
    if normalized:
      x = (x - x.mean((0, 1, 2), keepdims=True)) / x.std((0, 1, 2), keepdims=True)
    x = jax.nn.relu(x)
  return x.mean((1, 2)) @ params["head"]


def cross_entropy(params, batch, *, normalized=False):
  x, labels = batch
  scores = jax.nn.log_softmax(conv_net(params, x, normalized=normalized))
  return -jnp.take_along_axis(scores, labels[:, None], axis=1).sum(), len(labels)


normalized_cross_entropy = functools.partial(cross_entropy, normalized=True)


def conv_params_and_batch():
  rng = np.random.default_rng(0)
  shapes = {"first": (3, 3, 3, 4), "second": (3, 3, 4, 5), "head": (5, 3)}
  params = {
    name: jnp.asarray(0.5 * rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()
  }
  return params, (rng.standard_normal((8, 6, 6, 3)).astype(np.float32), rng.integers(0, 3, 8))


AXES = [np.linspace(-1, 1, 3)] * 2


def test_a_convolutional_net_agrees_with_one_point_at_a_time_and_is_exact_at_the_origin():
  params, batch = conv_params_and_batch()
  directions = [weights.filter_normalized(key, params) for key in jax.random.split(KEY)]
  found = weights.surface(cross_entropy, params, [batch], directions, AXES, points_per_call=4)
  for i, a in enumerate(AXES[0]):
    for j, b in enumerate(AXES[1]):
      at = jax.tree.map(lambda w, d, e, a=a, b=b: w + a * d + b * e, params, *directions)
      np.testing.assert_allclose(found[i, j], cross_entropy(at, batch)[0] / 8, rtol=1e-5)
  np.testing.assert_allclose(found[1, 1], cross_entropy(params, batch)[0] / 8, rtol=1e-6)


UNITS = jnp.array([0.1, 1.0, 3.0, 20.0])[None, None, None, :]


@pytest.mark.parametrize(
  ("loss_fn", "direct", "change", "invariant"),
  [
    (cross_entropy, weights.filter_normalized, dict(first=5.0, second=0.2), True),
    (cross_entropy, tree.random_like, dict(first=5.0, second=0.2), False),
    (normalized_cross_entropy, weights.filter_normalized, dict(first=UNITS), True),
    (normalized_cross_entropy, tree.random_like, dict(first=UNITS), False),
    (
      cross_entropy,
      weights.filter_normalized,
      dict(first=UNITS, second=1 / jnp.swapaxes(UNITS, 2, 3)),
      False,
    ),
  ],
)
def test_surfaces_that_the_rescaling_of_filters_leaves_alone(loss_fn, direct, change, invariant):
  params, batch = conv_params_and_batch()
  same = params | {name: params[name] * factor for name, factor in change.items()}
  np.testing.assert_allclose(loss_fn(same, batch)[0], loss_fn(params, batch)[0], rtol=1e-5)

  def surface_at(params):
    directions = [direct(key, params) for key in jax.random.split(KEY)]
    return weights.surface(loss_fn, params, [batch], directions, AXES)

  before, after = surface_at(params), surface_at(same)
  assert np.ptp(before) > 0.1
  assert (np.abs(after - before).max() < 1e-4) == invariant
  if not invariant:
    assert np.abs(after - before).max() > 0.02


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda: weights.surface(squares, W, iter([X]), [D1], [[0.0]]), ConfigError, "iterator"),
    (lambda: weights.surface(squares, W, [X], D1, [[0.0]]), ConfigError, "one or two trees"),
    (lambda: weights.surface(squares, W, [X], [], []), ConfigError, "one or two trees"),
    (lambda: weights.surface(squares, W, [X], [D1] * 3, [[0.0]] * 3), ConfigError, "one or two trees"),
    (
      lambda: weights.surface(squares, W, [X], [D1, D2], [[0.0]]),
      ConfigError,
      "1 lists of coordinates for 2",
    ),
    (lambda: weights.surface(squares, W, [X], [D1], [[]]), ConfigError, r"coordinates 0 have shape \(0,\)"),
    (lambda: weights.surface(squares, W, [X], [D1], [[[0.0]]]), ConfigError, r"shape \(1, 1\)"),
    (lambda: weights.surface(squares, W, [X], [D1], [[np.nan]]), ConfigError, "all finite"),
    (
      lambda: weights.surface(squares, W, [X], [D1], [[0.0]], points_per_call=0),
      ConfigError,
      "points_per_call",
    ),
    (
      lambda: weights.surface(squares, W, [X], [D1, {"w": jnp.ones(2)}], [[0.0]] * 2),
      InputError,
      r"w has shape \(3,\) in the parameters and \(2,\) in direction 1",
    ),
    (lambda: weights.surface(squares, W, [], [D1], [[0.0]]), DataError, "0 examples"),
  ],
)
def test_bad_input_is_one_line(call, error, message):
  with pytest.raises(error, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
