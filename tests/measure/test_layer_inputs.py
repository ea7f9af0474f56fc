"""The states that enter a block, and the loss as a function of what one layer holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses, models
from jaxtl.measure.layer_inputs import LayerInputs, resolution
from jaxtl.tasks import CROSS_ENTROPY
from jaxtl.train import sharding
from jaxtl.weights import Group, layer_groups

pytestmark = pytest.mark.slow


def batches_of(labels, size, padding=0):
  """Batches whose images say which row they are."""
  count = len(labels)
  rows = np.arange(count, dtype=np.float32)
  image = np.broadcast_to(rows[:, None, None, None], (count, 8, 8, 3))
  mask = np.arange(count) < count - padding
  whole = {"image": image, "label": np.asarray(labels), "mask": mask}
  return [{key: value[at : at + size] for key, value in whole.items()} for at in range(0, count, size)]


@pytest.mark.parametrize("num_devices", [1, 8])
def test_the_states_that_enter_a_block_are_those_of_the_model(runtime, num_devices):
  model = models.resnet8(num_classes=3, width=4)
  params, stats = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  at = runtime(num_devices)
  batches = batches_of(np.arange(16) % 3, 8, padding=1)
  there = [sharding.put_replicated(values, at.mesh) for values in (params, stats)]
  inputs = LayerInputs(model, *there, batches, at)
  for block in ("stage1_block1", "stage3_block1"):
    inputs.move_to(block)
    inputs.move_to(block)  # does nothing
    assert inputs.at == block
    [group] = (group for group in layer_groups(model, params) if group.name == block)
    loss_fn, own, again = inputs.loss_of(group, CROSS_ENTROPY)
    assert set(own) == {block}
    for batch, given in zip(again(), batches, strict=True):
      hidden = model.prefix(params, stats, jnp.asarray(given["image"]), stop=block)
      np.testing.assert_allclose(batch["image"], hidden, rtol=1e-5, atol=1e-5)
      total, count = loss_fn(own, batch)
      logits = model.apply(params, stats, jnp.asarray(given["image"]))[0]["logits"]
      expected = losses.softmax_cross_entropy(logits, jnp.asarray(given["label"]))[given["mask"]].sum()
      np.testing.assert_allclose(total, expected, rtol=1e-5)
      assert count == given["mask"].sum()
  everything = Group("all", tuple(params), 0)
  assert set(inputs.loss_of(everything, CROSS_ENTROPY)[1]) == {"stage3_block1", "head"}


def test_the_images_that_were_given_stay(runtime):
  model = models.resnet8(num_classes=3, width=4)
  params, stats = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  batches = batches_of(np.arange(8) % 3, 8)
  inputs = LayerInputs(model, params, stats, batches, runtime())
  inputs.move_to("head")
  assert batches[0]["image"].shape == (8, 8, 8, 3)


def test_rounding_is_that_of_the_type_that_sums_are_taken_in():
  assert resolution({"w": jnp.ones(2)}) == pytest.approx(8 * 2.0**-23)
  assert resolution({"w": jnp.ones(2, jnp.bfloat16)}) == pytest.approx(8 * 2.0**-23)
