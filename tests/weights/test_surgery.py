import numpy as np
import pytest

from jaxtl import weights
from jaxtl.errors import CheckpointError

TRAINED = {"stem": {"kernel": np.ones((2, 3))}, "head": {"kernel": np.ones((3, 5)), "bias": np.ones(5)}}
FRESH = {"stem": {"kernel": np.zeros((2, 3))}, "head": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}}


def test_all_is_taken_but_what_may_stay_fresh():
  found = weights.match(TRAINED, FRESH, allow=("^head/",))
  np.testing.assert_array_equal(found["stem"]["kernel"], 1)
  np.testing.assert_array_equal(found["head"]["kernel"], np.zeros((3, 4)))


def test_a_named_leaf_stays_fresh_even_where_it_fits():
  found = weights.match(TRAINED, TRAINED | {"head": FRESH["head"]}, allow=("^head/",))
  np.testing.assert_array_equal(found["head"]["bias"], np.zeros(4))


@pytest.mark.parametrize(
  ("trained", "message"),
  [
    (TRAINED, r"head/bias has shape \(5,\), and \(4,\) in the model"),
    ({"stem": TRAINED["stem"]}, "head/bias is not in the checkpoint"),
    (FRESH | {"neck": np.ones(1)}, "neck is not in the model"),
    ({}, "stem/kernel is not in the checkpoint"),
  ],
)
def test_every_mismatch_is_reported(trained, message):
  with pytest.raises(CheckpointError, match=message) as caught:
    weights.match(trained, FRESH)
  assert "\n" not in str(caught.value)


def positions(grid, *, tokens=2, width=3, seed=0):
  shape = (1, tokens + grid**2, width)
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def keys_cubic(x, a=-0.5):
  """The cubic of Keys, "Cubic convolution interpolation", 1981."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x**2 + 1
  far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def along_one_axis(old, new):
  """[new, old] weights: the cubic around the centre of each new cell, as wide as the coarser grid's cells."""
  centres = (np.arange(new) + 0.5) * old / new - 0.5
  weight = keys_cubic((centres[:, None] - np.arange(old)) / max(old / new, 1.0))
  return weight / weight.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("old", "new"), [(2, 4), (4, 2), (3, 7), (14, 5)])
@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_positions_are_interpolated_along_both_axes_and_tokens_are_not(old, new, tokens):
  trained = positions(old, tokens=tokens)
  found = weights.resize_positions(trained, (1, tokens + new**2, 3))
  np.testing.assert_array_equal(found[:, :tokens], trained[:, :tokens])
  one = along_one_axis(old, new)
  dense = np.einsum("ia,jb,abd->ijd", one, one, trained[0, tokens:].reshape(old, old, 3))
  np.testing.assert_allclose(found[0, tokens:], dense.reshape(new**2, 3), atol=2e-6)


@pytest.mark.parametrize(("old", "new"), [(2, 5), (5, 2)])
def test_a_constant_grid_stays_constant(old, new):
  found = weights.resize_positions(np.full((1, 1 + old**2, 3), 0.25, np.float32), (1, 1 + new**2, 3))
  np.testing.assert_allclose(found, 0.25, rtol=1e-6)


def test_a_smaller_grid_averages():
  checkers = np.indices((8, 8)).sum(axis=0) % 2  # what a filter without antialiasing would keep
  found = weights.resize_positions(checkers.reshape(1, 64, 1).astype(np.float32), (1, 4, 1))
  np.testing.assert_allclose(found, 0.5, atol=0.05)


@pytest.mark.parametrize(
  "shape", [(1, 18, 3), (1, 11, 3), (1, 18, 4), (1, 17), (2, 1, 18, 3)], ids=lambda shape: str(len(shape))
)
def test_positions_that_no_grid_explains_are_left_alone(shape):
  trained = positions(3, tokens=1)  # 10 rows
  assert weights.resize_positions(trained, shape) is trained


def test_a_trained_position_embedding_is_fitted_to_the_models_grid():
  trained, fresh = ({"embed": {"positions": positions(grid, tokens=1)}} for grid in (2, 3))
  found = weights.match(trained, fresh)["embed"]["positions"]
  np.testing.assert_array_equal(
    found, weights.resize_positions(trained["embed"]["positions"], fresh["embed"]["positions"].shape)
  )
  with pytest.raises(CheckpointError, match=r"embed/positions has shape \(1, 5, 3\), and \(1, 11, 3\)"):
    weights.match(trained, {"embed": {"positions": positions(3, tokens=2)}})
