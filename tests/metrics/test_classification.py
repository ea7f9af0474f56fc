import jax.numpy as jnp
import numpy as np
from sklearn.metrics import top_k_accuracy_score

from jaxtl.metrics import in_top


def test_in_top_agrees_with_scikit_learn_where_there_are_no_ties():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(200, 12)), rng.integers(0, 12, 200)
  for k in (1, 5):
    ours = in_top(jnp.asarray(logits), jnp.asarray(labels), k=k).mean()
    np.testing.assert_allclose(ours, top_k_accuracy_score(labels, logits, k=k, labels=range(12)), rtol=1e-6)


def test_ties_and_nan_count_against_the_model():
  logits = jnp.array([[1.0, 1.0, 1.0], [jnp.nan, 0.0, 0.0], [2.0, 1.0, 1.0]])
  labels = jnp.array([0, 0, 0])
  np.testing.assert_array_equal(in_top(logits, labels), [0, 0, 1])
  np.testing.assert_array_equal(in_top(logits, labels, k=3), [1, 0, 1])
