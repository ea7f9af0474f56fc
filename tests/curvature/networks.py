"""Small networks in float64 whose Hessian fits into memory: the dense reference of every curvature test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

BATCH, CLASSES = 24, 3


def mlp(params, x):
  """288 parameters."""
  x = x.reshape(len(x), -1) @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]
  return jnp.tanh(x) @ params["out"]


def conv_net(params, x):
  """779 parameters; batch normalisation with stored statistics."""
  for name in ("first", "second"):
    x = jax.lax.conv_general_dilated(
      x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    mean, variance = (
      jnp.linspace(low, high, x.shape[-1]).reshape(1, 1, 1, -1) for low, high in ((-0.1, 0.2), (0.5, 1.5))
    )
    scale, bias = (params[name][key].reshape(1, 1, 1, -1) for key in ("scale", "bias"))
    x = (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias
    x = jax.nn.gelu(x)
  return jnp.mean(x, axis=(1, 2)) @ params["out"]["kernel"] + params["out"]["bias"][None]


def attention(params, x):
  """Tokens [B, 4, 8] that look at each other: 440 parameters."""
  tokens = x.reshape(len(x), 4, 8)
  query, key, value = (tokens @ params[name] for name in ("query", "key", "value"))
  scores = jax.nn.softmax(query @ jnp.swapaxes(key, 1, 2) / np.sqrt(8), axis=-1)
  tokens = tokens + scores @ value
  tokens = tokens + jax.nn.gelu(tokens @ params["up"]) @ params["down"]
  return jnp.mean(tokens, axis=1) @ params["out"]


NETWORKS = {
  "mlp": (mlp, {"hidden": {"kernel": (32, 8), "bias": (8,)}, "out": (8, CLASSES)}),
  "conv_net": (
    conv_net,
    {
      "first": {"kernel": (3, 3, 2, 8), "scale": (8,), "bias": (8,)},
      "second": {"kernel": (3, 3, 8, 8), "scale": (8,), "bias": (8,)},
      "out": {"kernel": (8, CLASSES), "bias": (CLASSES,)},
    },
  ),
  "attention": (
    attention,
    {
      **dict.fromkeys(("query", "key", "value"), (8, 8)),
      "up": (8, 14),
      "down": (14, 8),
      "out": (8, CLASSES),
    },
  ),
}


def cross_entropy(logits, labels):
  """In the type of the logits, for references in float64: [B, K], [B] -> [B]."""
  return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


def smoothed_hinge(logits, labels):
  """The multi-class smoothed hinge with margin 2, as the formula stands: [B, K], [B] -> [B]."""
  margin, a = 2.0, 0.3
  own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  xi = jax.nn.relu(logits - jnp.take_along_axis(logits, labels[:, None], axis=1) + margin)
  h = jnp.where(xi < margin, a * xi**2, 2 * a * margin * xi - a * margin**2)
  return jnp.log1p(jnp.sum(jnp.where(own, 0.0, jnp.expm1(h)), axis=-1))


def examples(seed=1):
  """`image` [24, 4, 4, 2] and `label` [24]."""
  rng = np.random.default_rng(seed)
  return {
    "image": jnp.asarray(rng.standard_normal((BATCH, 4, 4, 2))),
    "label": jnp.asarray(rng.integers(0, CLASSES, BATCH)),
  }


def initial(shapes, seed=0):
  """Normal draws of standard deviation 0.4, in the order of the tree."""
  rng = np.random.default_rng(seed)
  draw = lambda shape: jnp.asarray(0.4 * rng.standard_normal(shape))  # noqa: E731
  return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def mean_loss(name, loss, seed=0):
  """(params -> mean loss, params) of a network."""
  network, shapes = NETWORKS[name]
  data = examples()
  return (
    lambda params: jnp.mean(loss(network(params, data["image"]), data["label"])),
    initial(shapes, seed),
  )


def sum_and_count(name, loss):
  """(params, batch) -> (sum of the losses, their number)."""
  return functools.partial(_sum_and_count, NETWORKS[name][0], loss)


def _sum_and_count(network, loss, params, batch):
  each = loss(network(params, batch["image"]), batch["label"])
  return each.sum(), jnp.float32(each.size)


def dense_hessian(loss, params):
  """[n, n] over the flattened parameters."""
  flat, unravel = ravel_pytree(params)
  return np.asarray(jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat))


def columns(matvec, params):
  """The dense matrix of a product, row by row: it is symmetric."""
  flat, unravel = ravel_pytree(params)
  return np.stack([ravel_pytree(matvec(unravel(row)))[0] for row in jnp.eye(flat.size)])


def batches_of(data, size):
  """The examples in batches of so many."""
  count = len(data["label"])
  return [jax.tree.map(lambda x, i=i: x[i : i + size], data) for i in range(0, count, size)]
