"""The diagonal of the Fisher information."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import curvature
from jaxtl.errors import DataError, InputError


def predict(params, batch):
  hidden = jnp.tanh(batch["x"] @ params["w1"] * batch["scale"])
  return hidden @ params["w2"], batch["mask"]


def network(seed=0):
  rng = np.random.default_rng(seed)
  return {"w1": jnp.asarray(rng.normal(size=(3, 4))), "w2": jnp.asarray(rng.normal(size=(4, 3)))}


def batches(number, size=4, padded=0, seed=1):
  rng = np.random.default_rng(seed)
  return [
    {
      "x": jnp.asarray(rng.normal(size=(size, 3))),
      "mask": jnp.arange(size) < size - padded,
      "scale": jnp.float32(1.3),
    }
    for _ in range(number)
  ]


def dense_diagonal(params, data):
  """The diagonal of the exact matrix, over all labels instead of drawn ones."""
  total, count = jax.tree.map(jnp.zeros_like, params), 0
  for batch in data:
    for i in range(int(batch["mask"].sum())):
      one = batch | {"x": batch["x"][i : i + 1], "mask": batch["mask"][i : i + 1]}
      shares = jax.nn.softmax(predict(params, one)[0])[0]
      for label, share in enumerate(shares):
        g = jax.grad(lambda p, y=label, b=one: jax.nn.log_softmax(predict(p, b)[0])[0, y])(params)
        total = jax.tree.map(lambda t, x, s=share: t + s * x**2, total, g)
      count += 1
  return jax.tree.map(lambda t: t / count, total)


def test_the_mean_over_draws_is_the_exact_diagonal():
  params, data = network(), batches(2)
  draws = [curvature.fisher_diagonal(predict, params, data, jax.random.key(seed)) for seed in range(300)]
  exact = dense_diagonal(params, data)
  for name in params:
    found = np.stack([draw[name] for draw in draws])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert np.all(np.abs(found.mean(axis=0) - exact[name]) <= 4.5 * error + 1e-6)


def test_padding_does_not_count_and_a_key_gives_the_same_again():
  params = network()
  [whole] = batches(1)
  padded = {**whole, "x": jnp.concatenate([whole["x"], jnp.full((4, 3), 7.0)]), "mask": jnp.arange(8) < 4}
  key = jax.random.key(5)
  # Labels are drawn for the padded batch at once, so the comparison is with its own rows alone.
  found = curvature.fisher_diagonal(predict, params, [padded], key)
  other = {**padded, "x": padded["x"].at[4:].set(-3.0)}
  again = curvature.fisher_diagonal(predict, params, lambda: iter([other]), key)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, again)


def test_logits_that_are_the_parameters_have_a_known_diagonal():
  params = {"z": jnp.zeros(2)}
  data = [{"x": jnp.zeros((8, 1)), "mask": jnp.ones(8, bool)}]
  found = curvature.fisher_diagonal(
    lambda p, b: (jnp.broadcast_to(p["z"], (len(b["x"]), 2)), b["mask"]), params, data, jax.random.key(0)
  )
  np.testing.assert_allclose(found["z"], [0.25, 0.25], rtol=1e-6)  # (1 - 1/2)^2 whatever is drawn


def test_bad_input_is_one_line():
  params = network()
  with pytest.raises(DataError, match="the batches hold no examples"):
    curvature.fisher_diagonal(predict, params, batches(1, padded=4), jax.random.key(0))
  with pytest.raises(InputError, match="'w1' is not finite"):
    curvature.fisher_diagonal(predict, {**params, "w1": params["w1"] * np.nan}, batches(1), jax.random.key(0))
