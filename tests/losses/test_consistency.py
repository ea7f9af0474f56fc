"""The Jensen-Shannon divergence against hand values and its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import DataError
from jaxtl.losses import jensen_shannon


def reference(logits, versions):
  """The definition, with the clipped mixture, in float64."""
  logits = np.asarray(logits, np.float64).reshape(versions, -1, logits.shape[-1])
  p = np.exp(logits - logits.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  mixture = np.clip(p.mean(0), 1e-7, 1)
  terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(mixture)), 0)
  return terms.sum(-1).mean(0)


def test_certain_predictions_that_disagree_once():
  """(2 ln(3/2) + ln 3) / 3 = 0.636514; AugMix weighs it by 12: 7.638170."""
  certain = 200 * jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
  assert float(jensen_shannon(certain)[0]) == pytest.approx(0.636514, abs=1e-6)
  assert 12 * float(jensen_shannon(certain)[0]) == pytest.approx(7.638170, abs=1e-5)


def test_equal_versions_have_no_divergence():
  logits = jnp.tile(jax.random.normal(jax.random.key(0), (4, 7)), (3, 1))
  np.testing.assert_allclose(jensen_shannon(logits), np.zeros(4), atol=1e-6)


@pytest.mark.parametrize("versions", [2, 3])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1e4])
def test_it_is_its_definition(versions, scale):
  logits = scale * jax.random.normal(jax.random.key(1), (5 * versions, 9))
  found = jensen_shannon(logits, versions=versions)
  assert found.shape == (5,)
  np.testing.assert_allclose(found, reference(np.asarray(logits), versions), rtol=2e-5, atol=2e-6)
  assert float(found.max()) <= np.log(versions) + 1e-5
  assert jnp.isfinite(jax.grad(lambda x: jensen_shannon(x, versions=versions).sum())(logits)).all()


def test_the_gradient_is_that_of_differences():
  logits = jax.random.normal(jax.random.key(2), (6, 4))
  slope = jax.grad(lambda x: jensen_shannon(x).sum())(logits)
  direction = np.asarray(jax.random.normal(jax.random.key(3), (6, 4)))
  ends = [reference(np.asarray(logits, np.float64) + h * direction, 3).sum() for h in (1e-5, -1e-5)]
  assert float((slope * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3)


def test_shuffled_versions_have_the_same_divergence():
  logits = jax.random.normal(jax.random.key(4), (3, 2, 5))
  one, other = (jensen_shannon(x.reshape(6, 5)) for x in (logits, logits[::-1]))
  np.testing.assert_allclose(one, other, rtol=1e-5)


def test_rows_that_do_not_divide_are_refused():
  with pytest.raises(DataError, match="got 7 rows for 3 versions"):
    jensen_shannon(jnp.zeros((7, 2)))
