"""Sharpness on quadratic forms, against dense Hessians, and what each measure is invariant to."""

import functools
import math

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import tree
from jaxtl.curvature import (
  Estimate,
  adaptive_average_sharpness,
  adaptive_sam_sharpness,
  average_sharpness,
  fisher_rao_norm,
  hvp,
  relative_flatness,
  sam_sharpness,
)
from jaxtl.errors import ConfigError, InputError, NonFiniteLossError

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def in_float64():
  with jax.enable_x64(True):
    yield


def quadratic(eigenvalues, *, seed=0):
  """L(w) = <g, w> + <w, H w> / 2 on a tree, with g, H and the weights as dense arrays."""
  rng, size = np.random.default_rng(seed), len(eigenvalues)
  basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
  matrix, slope = basis * np.asarray(eigenvalues) @ basis.T, rng.standard_normal(size)
  params = {
    "kernel": jnp.asarray(rng.standard_normal((2, size // 2))),
    "bias": jnp.zeros(size - size // 2 * 2),
  }
  flat, unravel = jax.flatten_util.ravel_pytree(params)

  @jax.jit
  def loss(params):
    w = jax.flatten_util.ravel_pytree(params)[0] - flat
    return slope @ w + 0.5 * w @ matrix @ w

  return loss, params, slope, matrix, np.asarray(flat), unravel


def largest_rise(slope, matrix, rho):
  """max <g, e> + <e, H e> / 2 over |e| = rho: (m - H) e = g with m beyond the largest eigenvalue."""
  values, vectors = np.linalg.eigh(matrix)
  turned = vectors.T @ slope
  low, high = values[-1], values[-1] + np.linalg.norm(slope) / rho + 1
  for _ in range(200):
    middle = (low + high) / 2
    low, high = (middle, high) if np.linalg.norm(turned / (middle - values)) > rho else (low, middle)
  e = vectors @ (turned / (high - values))
  return slope @ e + 0.5 * e @ matrix @ e


SPECTRUM = [4.0, 2.0, 1.0, 1.0, 0.5, 0.1, 0.0]


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_one_step_goes_along_the_gradient(rho):
  loss, params, g, matrix, _, _ = quadratic(SPECTRUM)
  e = rho * g / np.linalg.norm(g)
  found = sam_sharpness(loss, jax.grad(loss), params, rho=rho)
  np.testing.assert_allclose(found, g @ e + 0.5 * e @ matrix @ e, rtol=1e-12)


@pytest.mark.parametrize("rho", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("spectrum", [SPECTRUM, [3, 1, 0, 0, -1, -2, -5]])
def test_many_steps_find_the_maximum_over_the_ball(spectrum, rho):
  loss, params, g, matrix, _, _ = quadratic(spectrum)
  found = [sam_sharpness(loss, jax.grad(loss), params, rho=rho, num_steps=n) for n in (1, 3, 100)]
  assert found == sorted(found)
  np.testing.assert_allclose(found[-1], largest_rise(g, matrix, rho), rtol=1e-3)


def test_a_concave_loss_has_its_maximum_inside_the_ball():
  loss, params, g, matrix, _, _ = quadratic([-1, -1, -1.5, -2, -2, -2, -3])
  found = sam_sharpness(loss, jax.grad(loss), params, rho=100.0, num_steps=100)
  np.testing.assert_allclose(found, -0.5 * g @ np.linalg.solve(matrix, g), rtol=1e-6)
  assert sam_sharpness(loss, jax.grad(loss), params, rho=100.0) == 0.0  # one step falls: eps = 0 is better


def test_zero_gradient_has_no_sharpness_to_first_order():
  loss = lambda w: jnp.sum(w**2)  # noqa: E731
  assert sam_sharpness(loss, jax.grad(loss), jnp.zeros(3), rho=1.0, num_steps=3) == 0.0


def test_a_step_costs_one_gradient_and_one_loss():
  loss, params, *_ = quadratic(SPECTRUM)
  calls = {"loss": 0, "gradient": 0}

  def counted(name, fn):
    def call(params):
      calls[name] += 1
      return fn(params)

    return call

  gradient = counted("gradient", jax.grad(loss))
  sam_sharpness(counted("loss", loss), gradient, params, rho=0.1, num_steps=4)
  assert calls == {"loss": 5, "gradient": 4}


@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_adaptive_step_is_the_first_order_maximum_in_the_scaled_ball(eta):
  loss, params, g, matrix, w, _ = quadratic(SPECTRUM)
  sizes = np.abs(w) + eta
  e = 0.2 * sizes**2 * g / np.linalg.norm(sizes * g)
  np.testing.assert_allclose(np.linalg.norm(e[sizes > 0] / sizes[sizes > 0]), 0.2)  # on the ball's surface
  found = adaptive_sam_sharpness(loss, jax.grad(loss), params, rho=0.2, eta=eta)
  np.testing.assert_allclose(found, g @ e + 0.5 * e @ matrix @ e, rtol=1e-12)


def test_adaptive_maximum_is_the_plain_one_of_the_scaled_loss():
  loss, params, g, matrix, w, _ = quadratic(SPECTRUM)
  sizes = np.abs(w) + 0.1
  found = adaptive_sam_sharpness(loss, jax.grad(loss), params, rho=0.5, eta=0.1, num_steps=100)
  expected = largest_rise(sizes * g, matrix * np.outer(sizes, sizes), 0.5)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("adaptive", [False, True])
def test_average_is_half_the_trace_with_the_spread_of_a_gaussian_form(adaptive):
  loss, params, _, matrix, w, _ = quadratic([4.0, 2.0, 1.0, 1.0, 0.5, 0.1, -2.0])
  measure = adaptive_average_sharpness if adaptive else average_sharpness
  seen = np.outer(w, w) * matrix if adaptive else matrix
  found = measure(loss, params, KEY, sigma=0.1, num_samples=400)
  assert isinstance(found, Estimate)
  assert found.num_evaluations == 801
  assert abs(found.value - 0.1**2 * np.trace(seen) / 2) < 4 * found.standard_error
  spread = 0.1**2 / 2 * math.sqrt(2 * np.sum(seen**2) / 400)  # the variance of <z, A z> is 2 |A|^2
  np.testing.assert_allclose(found.standard_error, spread, rtol=0.2)


def test_pairs_cancel_the_gradient_and_keys_decide_the_noise():
  slope = jnp.arange(5.0)
  loss = lambda w: jnp.sum(slope * w)  # noqa: E731
  found = average_sharpness(loss, jnp.ones(5), KEY, sigma=1.0, num_samples=3)
  np.testing.assert_allclose(found[:2], 0, atol=1e-14)
  rise = lambda key: average_sharpness(lambda w: jnp.sum(w**2), slope, key, sigma=1.0, num_samples=3)  # noqa: E731
  assert rise(KEY) == rise(KEY)
  assert rise(KEY).value != rise(jax.random.key(1)).value


# A network of ReLUs without biases, and changes of its weights that leave its function alone.


def relu_net(params, x):
  x = jax.nn.relu(x @ params["first"]["kernel"])
  x = jax.nn.relu(x @ params["second"]["kernel"])
  return x @ params["third"]["kernel"]


def make_net(seed=0):
  rng = np.random.default_rng(seed)
  shapes = {"first": (4, 6), "second": (6, 5), "third": (5, 3)}
  params = {name: {"kernel": jnp.asarray(0.7 * rng.standard_normal(shape))} for name, shape in shapes.items()}
  x, labels = jnp.asarray(rng.standard_normal((20, 4))), jnp.asarray(rng.integers(0, 3, 20))

  @jax.jit
  def loss(params):
    scores = jax.nn.log_softmax(relu_net(params, x))
    return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()

  return loss, params, x


def rescaled(params, *, first, second):
  """`first` multiplies the first layer's outputs, `second` the second's; the next layer undoes each."""
  first, second = jnp.broadcast_to(first, (6,)), jnp.broadcast_to(second, (5,))
  kernels = {name: leaf["kernel"] for name, leaf in params.items()}
  return {
    "first": {"kernel": kernels["first"] * first[None, :]},
    "second": {"kernel": kernels["second"] * second[None, :] / first[:, None]},
    "third": {"kernel": kernels["third"] / second[:, None]},
  }


LAYERS = dict(first=3.0, second=0.5)
UNITS = dict(first=np.linspace(0.3, 4, 6), second=np.linspace(2, 0.2, 5))


def softmax_fisher(params, x):
  """v -> F v from the dense Jacobian: J^T (diag p - p p^T) J, averaged over examples."""
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  jacobian = jax.jacobian(lambda w: relu_net(unravel(w), x))(flat)
  p = jax.nn.softmax(relu_net(params, x))
  covariance = jnp.einsum("na,ab->nab", p, jnp.eye(3)) - jnp.einsum("na,nb->nab", p, p)
  dense = jnp.einsum("nai,nab,nbj->ij", jacobian, covariance, jacobian) / len(x)
  return lambda v: unravel(dense @ jax.flatten_util.ravel_pytree(v)[0])


def measures():
  loss, _, x = make_net()
  gradient = jax.grad(loss)
  flat = functools.partial(relative_flatness, key=KEY, where="^second/", num_samples=5)
  noise = dict(key=KEY, sigma=0.1, num_samples=5)
  return {
    "sam": lambda p: sam_sharpness(loss, gradient, p, rho=0.1),
    "asam": lambda p: adaptive_sam_sharpness(loss, gradient, p, rho=0.1),
    "asam_many": lambda p: adaptive_sam_sharpness(loss, gradient, p, rho=0.5, num_steps=10),
    "asam_eta": lambda p: adaptive_sam_sharpness(loss, gradient, p, rho=0.1, eta=0.1),
    "average": lambda p: average_sharpness(loss, p, **noise).value,
    "adaptive_average": lambda p: adaptive_average_sharpness(loss, p, **noise).value,
    "fisher_rao": lambda p: fisher_rao_norm(softmax_fisher(p, x), p),
    "relative_flatness": lambda p: flat(hvp(loss, p), p).value,
  }


@pytest.mark.parametrize(
  ("name", "change", "invariant"),
  [
    ("sam", LAYERS, False),
    ("average", LAYERS, False),
    ("sam", UNITS, False),
    ("average", UNITS, False),
    ("asam_eta", UNITS, False),
    ("asam_eta", LAYERS, False),
    ("asam", LAYERS, True),
    ("asam", UNITS, True),
    ("asam_many", UNITS, True),
    ("adaptive_average", LAYERS, True),
    ("adaptive_average", UNITS, True),
    ("fisher_rao", LAYERS, True),
    ("fisher_rao", UNITS, True),
    ("relative_flatness", LAYERS, True),
    ("relative_flatness", dict(first=3.0, second=UNITS["second"]), True),
    ("relative_flatness", UNITS, False),
  ],
)
def test_invariance_to_the_rescaling_of_units(name, change, invariant):
  _, params, x = make_net()
  same = rescaled(params, **change)
  np.testing.assert_allclose(relu_net(same, x), relu_net(params, x), rtol=1e-12, atol=1e-13)
  measure = measures()[name]
  before, after = measure(params), measure(same)
  assert before != 0
  assert (abs(after - before) < 1e-9 * abs(before)) == invariant
  if not invariant:
    assert abs(after - before) > 0.05 * abs(before)


def permuted(params):
  """The units of the first layer in another order."""
  order = np.array([3, 0, 5, 1, 4, 2])
  return {
    "first": {"kernel": params["first"]["kernel"][:, order]},
    "second": {"kernel": params["second"]["kernel"][order]},
    "third": params["third"],
  }


@pytest.mark.parametrize("average", [average_sharpness, adaptive_average_sharpness])
def test_the_permutation_of_units_leaves_an_average_alone_but_not_its_samples(average):
  loss, params, _ = make_net()
  few = [average(loss, p, KEY, sigma=0.1, num_samples=2).value for p in (params, permuted(params))]
  assert abs(few[1] - few[0]) > 1e-3 * abs(few[0])
  both = zip((params, permuted(params)), jax.random.split(KEY))
  many = [average(loss, p, key, sigma=0.1, num_samples=1000) for p, key in both]
  error = math.hypot(*(found.standard_error for found in many))
  assert abs(many[1].value - many[0].value) < 4 * error
  assert error < 0.15 * many[0].value


@pytest.mark.parametrize("name", ["sam", "asam", "fisher_rao"])
def test_invariance_to_the_permutation_of_units(name):
  _, params, _ = make_net()
  np.testing.assert_allclose(measures()[name](permuted(params)), measures()[name](params), rtol=1e-10)


def test_fisher_rao_norm_is_the_variance_of_the_scores_times_the_depth():
  _, params, x = make_net()
  scores = np.asarray(relu_net(params, x))
  p = np.asarray(jax.nn.softmax(scores))
  variance = (p * scores**2).sum(1) - (p * scores).sum(1) ** 2  # <w, df/dw> = 3 f for three layers
  np.testing.assert_allclose(
    fisher_rao_norm(softmax_fisher(params, x), params), 3 * math.sqrt(variance.mean()), rtol=1e-10
  )


def dense_relative_flatness(loss, params, name):
  kernel = params[name]["kernel"]
  at = lambda k: loss(params | {name: params[name] | {"kernel": k}})  # noqa: E731
  hessian = np.asarray(jax.hessian(at)(kernel)).reshape(
    -1, kernel.shape[-1], kernel.size // kernel.shape[-1], kernel.shape[-1]
  )
  rows = np.asarray(kernel).reshape(-1, kernel.shape[-1])
  return np.einsum("as,ar,tstr->", rows, rows, hessian)


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_relative_flatness_is_that_of_the_dense_hessian(name):
  loss, params, _ = make_net()
  found = relative_flatness(hvp(loss, params), params, KEY, where=f"^{name}/", num_samples=600)
  expected = dense_relative_flatness(loss, params, name)
  assert found.num_evaluations == 600
  assert found.standard_error < 0.1 * abs(expected)
  assert abs(found.value - expected) < 4 * found.standard_error


def test_relative_flatness_of_a_convolution_is_that_of_its_flattened_kernel():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((6, 5, 5, 2)))
  params = {"conv": {"kernel": jnp.asarray(rng.standard_normal((3, 3, 2, 4))), "bias": jnp.zeros(4)}}

  def loss(params):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
    return jax.nn.logsumexp(y.mean((1, 2)) + params["conv"]["bias"][None, :], axis=1).mean()

  found = relative_flatness(hvp(loss, params), params, KEY, where="kernel$", num_samples=600)
  expected = dense_relative_flatness(loss, params, "conv")
  assert found.standard_error < 0.1 * abs(expected)
  assert abs(found.value - expected) < 4 * found.standard_error


def test_relative_flatness_of_a_ridge_is_the_number_of_inputs_times_the_norm():
  params = {"kernel": jax.random.normal(KEY, (3, 5)), "other": jnp.ones(2)}
  loss = lambda p: 0.5 * (jnp.sum(p["kernel"] ** 2) + jnp.sum(p["other"] ** 2))  # noqa: E731
  found = relative_flatness(hvp(loss, params), params, KEY, where="kernel", num_samples=1000)
  assert abs(found.value - 3 * float(tree.norm(params["kernel"])) ** 2) < 4 * found.standard_error


def half(w):
  return jnp.sum(w["kernel"] ** 2) / 2


BAD = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
FLAT = functools.partial(relative_flatness, lambda v: v, BAD, KEY)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: sam_sharpness(half, jax.grad(half), BAD, rho=0.0), "rho is 0.0; write a positive"),
    (lambda: sam_sharpness(half, jax.grad(half), BAD, rho=math.nan), "rho is nan"),
    (lambda: sam_sharpness(half, jax.grad(half), BAD, rho=1.0, num_steps=0), "num_steps is 0"),
    (lambda: adaptive_sam_sharpness(half, jax.grad(half), BAD, rho=-1.0), "rho is -1.0"),
    (lambda: adaptive_sam_sharpness(half, jax.grad(half), BAD, rho=1.0, eta=-0.1), "eta is -0.1"),
    (lambda: average_sharpness(half, BAD, KEY, sigma=-1.0, num_samples=2), "sigma is -1.0"),
    (lambda: average_sharpness(half, BAD, KEY, sigma=1.0, num_samples=1), "num_samples is 1"),
    (lambda: adaptive_average_sharpness(half, BAD, KEY, sigma=0.0, num_samples=2), "sigma is 0.0"),
    (lambda: FLAT(where="kernel", num_samples=1), "num_samples is 1"),
    (lambda: FLAT(where="dense", num_samples=2), "'dense' matches no parameter"),
    (lambda: FLAT(where="e|b", num_samples=2), "matches 2 parameters, bias; kernel"),
    (lambda: FLAT(where="bias", num_samples=2), r"'bias' has shape \(2,\)"),
  ],
)
def test_bad_hyperparameters_are_one_line(call, message):
  with pytest.raises(ConfigError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: sam_sharpness(lambda w: jnp.nan * half(w), jax.grad(half), BAD, rho=1.0), "loss is nan at the"),
    (
      lambda: sam_sharpness(lambda w: jnp.exp(half(w)), jax.grad(half), BAD, rho=1e3),
      "loss is inf within rho = 1000",
    ),
    (lambda: sam_sharpness(half, lambda w: tree.scale(jnp.nan, w), BAD, rho=1.0), "gradient's norm is nan"),
    (
      lambda: average_sharpness(lambda w: jnp.exp(half(w)), BAD, KEY, sigma=1e3, num_samples=2),
      "loss is inf under noise of sigma = 1000",
    ),
    (lambda: fisher_rao_norm(lambda v: tree.scale(-1.0, v), BAD), "<w, F w> is -6; "),
    (
      lambda: relative_flatness(lambda v: tree.scale(jnp.inf, v), BAD, KEY, where="kernel", num_samples=2),
      "along 'kernel' is not finite",
    ),
  ],
)
def test_numbers_that_are_not_finite_are_told_where_they_arise(call, message):
  with pytest.raises(InputError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


def refuses_beyond(limit, function):
  """As what streams batches: it tells a loss that is not finite, but not why it was asked for."""

  def refusing(params):
    if float(tree.norm(params)) > limit:
      raise NonFiniteLossError("the loss is inf; check the data", value=math.inf)
    return function(params)

  return refusing


def test_a_loss_that_the_streams_refuse_within_rho_asks_for_a_smaller_rho():
  limit = 1.1 * float(tree.norm(BAD))
  slope = refuses_beyond(limit, jax.grad(half))
  for loss, gradient in ((half, slope), (refuses_beyond(limit, half), slope)):
    with pytest.raises(InputError, match=r"^the loss is inf within rho = 1 .* take a smaller rho$") as caught:
      sam_sharpness(loss, gradient, BAD, rho=1.0, num_steps=2)
    assert not isinstance(caught.value, NonFiniteLossError)
  with pytest.raises(InputError, match=r"^the loss is inf at the parameters$"):
    sam_sharpness(half, refuses_beyond(0.0, jax.grad(half)), BAD, rho=1.0)


def test_half_precision_parameters_stay_half_precision():
  types = set()

  def loss(w):
    types.add(w["kernel"].dtype.name)
    return half(w).astype(jnp.float32)

  params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), BAD)
  sam_sharpness(loss, jax.grad(half), params, rho=1.0, num_steps=2)
  average_sharpness(loss, params, KEY, sigma=0.1, num_samples=2)
  assert types == {"bfloat16"}


def test_an_indefinite_matrix_is_no_fisher_information_although_w_does_not_show_it():
  matrix = jnp.diag(jnp.array([3.0, 1.0, -2.0]))
  weights = jnp.array([1.0, 1.0, 0.2])
  with pytest.raises(InputError, match="negative one") as caught:
    fisher_rao_norm(lambda v: matrix @ v, weights)
  assert "\n" not in str(caught.value)
  assert fisher_rao_norm(lambda v: matrix @ v, weights, num_products=1) > 0
  with pytest.raises(ConfigError, match="num_products"):
    fisher_rao_norm(lambda v: v, weights, num_products=0)
