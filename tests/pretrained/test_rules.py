"""Each rule in both directions, and what it means for the layer that the array belongs to."""

import numpy as np
import pytest

from jaxtl.pretrained.layouts.rules import (
  CONV,
  LINEAR,
  SAME,
  TWO_BIASES,
  TWO_KERNELS,
  constant,
  joined,
  leading,
  per_head,
)


def draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
  ("rule", "ours", "count"),
  [
    (SAME, draw(2, 3), 1),
    (CONV, draw(3, 2, 4, 5), 1),
    (LINEAR, draw(4, 5), 1),
    (leading(1), draw(1, 4, 5), 1),
    (leading(2), draw(1, 1, 5), 1),
    (joined(LINEAR), draw(4, 12), 3),
    (joined(SAME), draw(12), 3),
    (TWO_KERNELS, draw(8, 5), 2),
    (TWO_BIASES, draw(5), 2),
  ],
  ids=lambda value: value.text if hasattr(value, "text") else "",
)
def test_what_goes_out_comes_back_bit_by_bit(rule, ours, count):
  theirs = rule.to_theirs(ours, count)
  assert len(theirs) == count
  np.testing.assert_array_equal(rule.to_ours(theirs, ours.shape), ours)


def test_a_convolution_kernel_has_its_output_channels_last():
  theirs, image = draw(4, 3, 2, 5), draw(3, 2, 5, seed=1)  # torch: [O, I, h, w] on [I, h, w]
  expected = [sum((theirs[o] * image).ravel()) for o in range(4)]
  ours = CONV.to_ours([theirs], (2, 5, 3, 4))
  np.testing.assert_allclose(np.tensordot(image.transpose(1, 2, 0), ours, 3), expected, rtol=1e-5)


def test_a_linear_layer_gives_what_torchs_gives():
  weight, x = draw(4, 3), draw(2, 3, seed=1)
  np.testing.assert_array_equal(x @ LINEAR.to_ours([weight], (3, 4)), x @ weight.T)


def test_query_key_and_value_stand_side_by_side_in_this_order():
  parts, x = [draw(4, 4, seed=seed) for seed in range(3)], draw(2, 4, seed=9)
  fused = x @ joined(LINEAR).to_ours(parts, (4, 12))
  np.testing.assert_allclose(fused, np.concatenate([x @ part.T for part in parts], axis=1), rtol=1e-5)


def test_two_classifiers_are_one_of_both_tokens():
  kernels, biases = [draw(3, 4, seed=seed) for seed in (0, 1)], [draw(3, seed=seed) for seed in (2, 3)]
  first, second = draw(2, 4, seed=4), draw(2, 4, seed=5)
  mean = (first @ kernels[0].T + biases[0] + second @ kernels[1].T + biases[1]) / 2
  kernel, bias = TWO_KERNELS.to_ours(kernels, (8, 3)), TWO_BIASES.to_ours(biases, (3,))
  np.testing.assert_allclose(np.concatenate([first, second], axis=1) @ kernel + bias, mean, rtol=1e-5)


def test_heads_are_merged_in_the_order_in_which_they_are_laid_out():
  x, kernel, bias = draw(5, 6), draw(6, 2, 3, seed=1), draw(2, 3, seed=2)
  by_heads = np.einsum("td,dhk->thk", x, kernel) + bias
  merged = x @ per_head(out=False).to_ours([kernel], (6, 6)) + per_head(out=False).to_ours([bias], (6,))
  np.testing.assert_allclose(merged.reshape(5, 2, 3), by_heads, rtol=1e-5, atol=1e-6)
  back = draw(2, 3, 6, seed=3)
  np.testing.assert_allclose(
    merged @ per_head(out=True).to_ours([back], (6, 6)),
    np.einsum("thk,hkd->td", by_heads, back),
    rtol=1e-5,
    atol=1e-6,
  )


def test_heads_that_are_merged_already_are_refused():
  for out in (False, True):
    with pytest.raises(ValueError, match=r"\(6, 6\)"):
      per_head(out=out).to_ours([draw(6, 6)], (6, 6))


def test_a_constant_needs_nothing_of_the_file():
  np.testing.assert_array_equal(constant(0.5).to_ours([], (2, 3)), np.full((2, 3), 0.5, np.float32))


def test_what_has_no_inverse_is_only_read():
  for rule in (constant(1.0), per_head(out=True), joined(per_head(out=False))):
    assert rule.to_theirs is None
