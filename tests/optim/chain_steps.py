"""Steps of post-training on the chain, and the same by explicit copies of its parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import optim, tree
from jaxtl.train import init_state, make_train_step
from tests.optim.small_chain import KEY, batch_of, chain, loss_of

MODEL = chain()
PARAMS, STATS = MODEL.init(KEY, None)


def evaluate(rule, batch, *, model=MODEL, params=PARAMS, stats=STATS, key=KEY, memory=None):
  """((loss, aux), grads) of a rule on the chain."""
  memory = optim.init_memory(rule, params) if memory is None else memory
  return jax.jit(rule(loss_of(model)))(params, stats, batch, key, *memory)


def moved(params, gradient, where, length):
  """Explicit copies: the parameters that `where` finds, `length` along minus the gradient."""
  step = tree.scale(length, tree.select(gradient, where))
  return tree.replace(params, tree.sub(tree.select(params, where), step))


def weak_loss(params, weak, model=MODEL):
  """The loss at test time, without the rule's shortcuts."""
  logits = model.apply(params, STATS, weak["image"])[0]["logits"]
  each = jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, weak["label"][:, None], 1)[:, 0]
  return jnp.sum(jnp.where(weak["mask"], each, 0)) / jnp.sum(weak["mask"])


def close(a, b, **tolerance):
  jax.tree.map(partial(np.testing.assert_allclose, **({"rtol": 1e-5, "atol": 1e-7} | tolerance)), a, b)


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def trajectory(rule, steps=6, *, model=MODEL, tx=None, batches=batch_of, seed=0):
  """(states, metrics) of some steps."""
  tx = tx or optim.sgd(peak_rate=0.1, total_steps=9, weight_decay=0.01)
  part = optim.trained_paths(rule, model)
  tx = optim.where(pattern=part, transform=tx) if part else tx
  step = jax.jit(make_train_step(loss_of(model, frozen_stats=True), tx, gradient=rule))
  states, told = [init_state(PARAMS, STATS, tx, gradient=rule)], []
  for number in range(steps):
    state, metrics = step(states[-1], batches(seed=number), jax.random.key(seed))
    states.append(state)
    told.append({name: float(value) for name, value in metrics.items()})
  return states, told
