import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.metrics import Mean, compute, merge


def test_a_mean_in_parts_is_the_mean_of_the_whole():
  values = np.random.default_rng(0).normal(size=37).astype(np.float32)
  mask = np.arange(37) < 33
  parts = [
    {"x": Mean.of(jnp.asarray(values[i : i + 8]), jnp.asarray(mask[i : i + 8]))} for i in range(0, 37, 8)
  ]
  total = parts[0]
  for part in parts[1:]:
    total = merge(total, part)
  assert compute(total)["x"] == pytest.approx(values[:33].mean(), rel=1e-6)


def test_masked_rows_do_not_count_even_when_they_are_nan():
  mean = Mean.of(jnp.array([1.0, jnp.nan, jnp.inf]), jnp.array([True, False, False]))
  assert compute({"x": mean}) == {"x": 1.0}


def test_a_mean_over_nothing_is_nan():
  assert np.isnan(compute({"x": Mean.of(jnp.ones(2), jnp.zeros(2, bool))})["x"])
