"""A network of four blocks in a few lines, with statistics and noise where a test wants them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import losses, tasks
from jaxtl.types import Model

KEY = jax.random.key(0)
WIDTH, CLASSES = 5, 3
BLOCKS = ("first", "second", "third", "head")


def chain(*, dropout: float = 0.0, head: str = "linear", blocks=BLOCKS) -> Model:
  """tanh layers; `second` subtracts the mean of its batch, or the stored one; `third` drops units."""

  def run(name, params, stats, x, train, frozen, key):
    own = params[name]
    if name == "head":
      if head == "cosine":
        x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        return {
          "logits": 4 * x @ (own["kernel"] / jnp.linalg.norm(own["kernel"], axis=0, keepdims=True))
        }, stats
      return {"logits": x @ own["kernel"] + own["bias"][None]}, stats
    x = x @ own["kernel"] + own["bias"][None]
    if name == "second":
      if train and not frozen:
        stats = stats | {"mean": 0.9 * stats["mean"] + 0.1 * jnp.mean(x, axis=0)}
        x = x - jnp.mean(x, axis=0, keepdims=True)
      else:
        x = x - stats["mean"][None]
    x = jnp.tanh(x)
    if name == "third" and train and dropout:
      x = x * jax.random.bernoulli(key, 1 - dropout, x.shape) / (1 - dropout)
    return x, stats

  def apply(params, batch_stats, images, *, train=False, frozen_stats=False, key=None, start=None, stop=None):
    first = blocks.index(start) if start else 0
    last = blocks.index(stop) if stop else len(blocks)
    x = images
    for name in blocks[first:last]:
      x, batch_stats = run(name, params, batch_stats, x, train, frozen_stats, key)
    return ({"hidden": x} if stop else x), batch_stats

  def init(key, images):
    rng = np.random.default_rng(3)
    params = {
      name: {
        "kernel": jnp.asarray(rng.normal(size=(WIDTH, CLASSES if name == "head" else WIDTH)), jnp.float32),
        "bias": jnp.asarray(0.1 * rng.normal(size=CLASSES if name == "head" else WIDTH), jnp.float32),
      }
      for name in blocks
    }
    return params, {"mean": jnp.full(WIDTH, 0.3)}

  return Model("chain", init, apply, blocks)


def examples(size: int = 12, seed: int = 0, *, separable: bool = False):
  """Rows of WIDTH numbers with random labels, and one row that does not count."""
  rng = np.random.default_rng(seed)
  label = np.arange(size) % CLASSES
  image = rng.normal(size=(size, WIDTH))
  if separable:
    image = 0.1 * image + 3 * np.eye(WIDTH)[label]
  else:
    label = rng.integers(0, CLASSES, size)
  mask = np.arange(size) != 1
  return {
    "image": jnp.asarray(image, jnp.float32),
    "label": jnp.asarray(label, jnp.int32),
    "mask": jnp.asarray(mask),
  }


def batch_of(size: int = 12, weak: int = 9, seed: int = 0):
  """A batch with a weak one beside it."""
  return {**examples(size, seed), "weak": examples(weak, seed + 100)}


def loss_of(model: Model, **keywords):
  """The mean cross-entropy of a model, as a task makes it."""
  return tasks.classification(loss=losses.softmax_cross_entropy, **keywords).loss_fn(model)
