"""Losses, parameters and products that are not finite: each stops in one line that says where."""

import jax
import jax.numpy as jnp
import pytest

from jaxtl import curvature
from jaxtl.errors import InputError, NonFiniteLossError

PARAMS = {"a": jnp.ones(3), "b": {"kernel": jnp.full(2, 2.0)}}
BATCHES = [jnp.float32(1), jnp.float32(2)]
# Finite derivatives of second order, and no loss: jax.grad drops what is added.
LOSSES = {
  "nan times a sum": lambda p: jnp.sum(p["a"]) * jnp.nan + jnp.sum(p["b"]["kernel"] ** 2),
  "a square and nan": lambda p: jnp.sum(p["a"] ** 2) + jnp.sum(p["b"]["kernel"] ** 2) + jnp.nan,
  "a square and infinity": lambda p: jnp.sum(p["a"] ** 2) + jnp.sum(p["b"]["kernel"] ** 2) + jnp.inf,
}


def over(loss, *, bad=2):
  """As a sum over batches, of which only one is not finite."""

  def loss_fn(params, batch):
    good = jnp.sum(params["a"] ** 2) + jnp.sum(params["b"]["kernel"] ** 2)
    return jnp.where(batch == bad, loss(params), good), jnp.float32(1)

  return loss_fn


def linear(params, batch):
  return {"a": params["a"] * batch, "b": params["b"]}


PRODUCTS = {
  "hvp": lambda loss: curvature.hvp(loss, PARAMS),
  "ggn": lambda loss: curvature.ggn(lambda p: p, loss, PARAMS),
  "hvp_over_batches": lambda loss: curvature.hvp_over_batches(over(loss), PARAMS, BATCHES),
  "ggn_over_batches": lambda loss: curvature.ggn_over_batches(linear, over(loss), PARAMS, BATCHES),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_refuses_a_loss_that_is_not_finite_though_its_derivatives_are(product, name):
  matvec = PRODUCTS[product](LOSSES[name])
  with pytest.raises(NonFiniteLossError, match=r"the loss is (nan|inf), although all parameters") as error:
    curvature.top_eigenpair(matvec, PARAMS, jax.random.key(0))
  assert "\n" not in str(error.value)
  assert error.value.code == 4
  with pytest.raises(InputError, match="the loss is"):
    curvature.trace(matvec, PARAMS, jax.random.key(0))


def test_a_product_by_some_leaves_and_the_empirical_fisher_refuse_it_too():
  loss = LOSSES["a square and nan"]
  with pytest.raises(NonFiniteLossError, match="the loss is nan"):
    curvature.hvp_over_batches(over(loss), PARAMS, BATCHES, where="^a")({"a": PARAMS["a"]})
  each = lambda p: p["a"] + jnp.array([0.0, jnp.nan, 0.0])  # noqa: E731
  with pytest.raises(NonFiniteLossError, match="the loss is nan"):
    curvature.empirical_fisher(each, PARAMS)(PARAMS)
  both = lambda p, batch: (each(p), jnp.ones(3, bool))  # noqa: E731
  with pytest.raises(NonFiniteLossError, match="the loss is nan"):
    curvature.empirical_fisher_over_batches(both, PARAMS, BATCHES)(PARAMS)
  masked = lambda p, batch: (each(p), jnp.array([True, False, True]))  # noqa: E731
  curvature.empirical_fisher_over_batches(masked, PARAMS, BATCHES)(PARAMS)  # padding may be anything


@pytest.mark.parametrize("of", [curvature.loss_over_batches, curvature.gradient_over_batches])
def test_a_mean_loss_that_is_not_finite_names_the_parameter(of):
  mean = of(over(LOSSES["a square and nan"]), BATCHES)
  with pytest.raises(NonFiniteLossError, match="the loss is nan, although all parameters are finite"):
    mean(PARAMS)
  good = of(over(LOSSES["a square and nan"], bad=3), BATCHES)
  good(PARAMS)
  broken = PARAMS | {"b": {"kernel": jnp.array([1.0, jnp.inf])}}
  with pytest.raises(NonFiniteLossError, match="the loss is inf, and the parameter 'b/kernel' is not finite"):
    good(broken)


def test_fishers_of_logits_that_are_not_finite_are_refused():
  def predict(params, batch):
    return params["a"][None] + jnp.log(-batch["x"]), jnp.ones(len(batch["x"]), bool)

  batches = [{"x": jnp.ones((2, 1))}]
  with pytest.raises(NonFiniteLossError, match="the loss is nan"):
    curvature.fisher_diagonal(predict, {"a": jnp.ones(3)}, batches, jax.random.key(0))
  with pytest.raises(NonFiniteLossError, match="the loss is nan"):
    curvature.fisher_over_batches(predict, {"a": jnp.ones(3)}, batches)({"a": jnp.ones(3)})


def test_squares_beyond_the_floating_point_range_are_named():
  def predict(params, batch):
    logits = params["a"][None] * jnp.array([[1e30, 0.0]]) + 0 * batch["x"]
    return logits, jnp.ones(len(logits), bool)

  batches = [{"x": jnp.ones((2, 1))}]
  with pytest.raises(InputError, match="the squared gradients of 'a' are not finite"):
    curvature.fisher_diagonal(predict, {"a": jnp.zeros(1)}, batches, jax.random.key(0))


def test_a_product_may_be_traced():
  """There is no number to check then."""
  matvec = curvature.hvp(LOSSES["a square and nan"], PARAMS)
  found = jax.jit(matvec)(PARAMS)
  assert jax.tree.map(lambda x: float(x[0]), found) == {"a": 2.0, "b": {"kernel": 4.0}}
  with pytest.raises(NonFiniteLossError):
    matvec(PARAMS)


def test_a_parameter_that_is_not_finite_is_named_before_any_product():
  params = {"a": jnp.ones(2), "b": {"kernel": jnp.array([1.0, jnp.nan])}}
  with pytest.raises(InputError, match="'b/kernel'"):
    curvature.hvp_over_batches(lambda p, b: (jnp.sum(p["a"]), 1.0), params, [1])
