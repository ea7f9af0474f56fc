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
