"""Means over batches: memory, what is refused, and how many programs they are."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxtl import tree
from jaxtl.curvature import gradient_over_batches, hvp_over_batches, loss_over_batches
from jaxtl.errors import ConfigError, DataError, InputError
from jaxtl.train import make_mesh, sharding
from tests.curvature import networks

LOSS_FN = networks.sum_and_count("mlp", networks.cross_entropy)


def test_memory_does_not_grow_with_the_number_of_batches():
  """Arrays alive while the batches pass, in bytes: each batch goes before the next but one comes."""
  _, params = networks.mean_loss("mlp", networks.cross_entropy)
  vector = tree.random_like(jax.random.key(0), params)

  def most_alive(count):
    seen = []

    def batches():
      for number in range(count):
        yield networks.examples(seed=number)
        seen.append(sum(x.nbytes for x in jax.live_arrays()))

    hvp_over_batches(LOSS_FN, params, batches)(vector)
    return max(seen)

  most_alive(1)
  batch = sum(x.nbytes for x in networks.examples().values())
  assert most_alive(64) <= most_alive(2) + 2 * batch


def test_an_iterator_is_refused_because_one_product_uses_it_up():
  with pytest.raises(ConfigError, match="iterator"):
    hvp_over_batches(lambda p, b: (0.0, 1.0), {}, iter([1]))


def test_no_examples_are_refused():
  with pytest.raises(DataError, match="0 examples"):
    hvp_over_batches(lambda p, b: (jnp.sum(p), 0.0), jnp.ones(2), [])(jnp.ones(2))


@pytest.mark.parametrize("devices", [None, 1, 8])
@pytest.mark.parametrize("where", [None, "^out"])
def test_every_product_is_the_same_program(devices, where, caplog):
  """Wherever the vector was made, and for each batch."""
  _, params = networks.mean_loss("mlp", networks.cross_entropy)
  batches = [networks.examples(seed=number) for number in range(3)]
  if devices is not None:
    mesh = make_mesh(devices)
    params = sharding.put_replicated(params, mesh)
    batches = [sharding.put_batch(jax.device_get(batch), mesh) for batch in batches]
  # A function of its own, which no other test has compiled.
  loss_fn = lambda params, batch: LOSS_FN(params, batch)  # noqa: E731
  vector = tree.random_like(jax.random.key(0), params if where is None else tree.select(params, where))
  with jax.log_compiles():
    matvec = hvp_over_batches(loss_fn, params, batches, where=where)
    for _ in range(3):
      vector = matvec(vector)
    for _ in range(2):
      loss_over_batches(loss_fn, batches)(params)
      gradient_over_batches(loss_fn, batches)(params)
  programs = [
    record
    for record in caplog.records
    if re.search(r"Finished XLA compilation of jit\(_add\)", record.getMessage())
  ]
  assert len(programs) == 3  # the product, the loss and the gradient


def test_a_vector_of_other_leaves_is_refused():
  _, params = networks.mean_loss("mlp", networks.cross_entropy)
  matvec = hvp_over_batches(LOSS_FN, params, [networks.examples()], where="^out")
  with pytest.raises(InputError, match=r"^the vector has the leaves hidden/bias; .*; the product takes out$"):
    matvec(params)
