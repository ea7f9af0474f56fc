"""What the CPU's convolution gradients cost beside JAX's own: median CPU seconds, in turns, in one process.

python benchmarks/convolution.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtl import losses, models, optim, tasks
from jaxtl.models import layers
from jaxtl.models.kernels import convolution
from jaxtl.train import init_state, make_train_step

# kernel, channels in and out, stride, size, batch; depthwise where one channel goes in
SHAPES = (
  (3, 128, 128, 1, 2, 128),
  (3, 256, 256, 1, 2, 128),
  (1, 64, 256, 1, 56, 8),
  (1, 256, 512, 2, 56, 8),
  (3, 32, 32, 1, 16, 128),
  (3, 64, 64, 1, 32, 128),
  (3, 256, 256, 1, 8, 128),
  (3, 1, 144, 1, 56, 8),
  (5, 1, 672, 1, 14, 8),
)


def plain(
  x: jax.Array,
  kernel: jax.Array,
  strides: tuple,
  padding: tuple,
  *,
  feature_group_count: int = 1,
  **_: object,
) -> jax.Array:
  """JAX's own convolution."""
  how = dict(dimension_numbers=convolution.NHWC, feature_group_count=feature_group_count)
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **how)


def gradients(
  convolve: Callable[..., jax.Array], stride: int, pad: int, groups: int
) -> Callable[..., object]:
  """(x, kernel) -> the value's and both gradients' work, jitted."""

  def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
    edges = ((pad, pad), (pad, pad))
    y = convolve(x, kernel, (stride, stride), edges, feature_group_count=groups)
    return jnp.sum(y * y)

  return jax.jit(jax.grad(loss, argnums=(0, 1)))


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
  """Median CPU seconds of each call; the first two rounds compile and warm up."""
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for number in range(rounds + 2):
    for name, call in calls.items():
      began = time.process_time()
      jax.block_until_ready(call())
      if number >= 2:
        seconds[name].append(time.process_time() - began)
  return {name: statistics.median(times) for name, times in seconds.items()}


def one_layer(shape: tuple[int, ...], rounds: int) -> None:
  width, inputs, outputs, stride, size, batch = shape
  keys = jax.random.split(jax.random.key(0))
  groups = outputs if inputs == 1 else 1
  x = jax.random.normal(keys[0], (batch, size, size, inputs * groups))
  kernel = jax.random.normal(keys[1], (width, width, inputs, outputs))
  calls: dict[str, Callable[[], object]] = {
    name: functools.partial(gradients(convolve, stride, width // 2, groups), x, kernel)
    for name, convolve in (("jax", plain), ("ours", convolution.conv_general_dilated))
  }
  found = in_turns(calls, rounds)
  channels = f"{inputs}->{outputs}" if groups == 1 else f"depthwise {outputs}"
  text = f"{width}x{width} {channels} stride {stride} at {size} x {size}, batch {batch}"
  print(f"{text:50} {found['jax']:.4f} s {found['ours']:.4f} s  {found['jax'] / found['ours']:.2f} x")


def one_step(name: str, size: int, batch: int, rounds: int, **keywords: int) -> None:
  key = jax.random.key(0)
  images = {
    "image": jax.random.normal(key, (batch, size, size, 3)),
    "label": jnp.zeros(batch, jnp.int32),
    "mask": jnp.ones(batch, bool),
  }
  tx, rule = optim.sgd(peak_rate=0.01, total_steps=1000), optim.plain()
  task = tasks.classification(loss=losses.softmax_cross_entropy)
  calls: dict[str, Callable[[], object]] = {}
  ours = layers.conv_general_dilated
  for kind, convolve in (("jax", plain), ("ours", ours)):
    layers.conv_general_dilated = convolve  # what a model is traced with
    model = getattr(models, name)(num_classes=100, **keywords)
    params, stats = jax.jit(model.init)(key, images["image"])
    state = init_state(params, stats, tx, gradient=rule)
    step = jax.jit(make_train_step(task.loss_fn(model), tx, gradient=rule))
    jax.block_until_ready(step(state, images, key))
    calls[kind] = functools.partial(step, state, images, key)
  layers.conv_general_dilated = ours
  found = in_turns(calls, rounds)
  text = f"training step of {name} {keywords or ''} at {size} x {size}, batch {batch}"
  print(f"{text:50} {found['jax']:.3f} s {found['ours']:.3f} s  {found['jax'] / found['ours']:.2f} x")


def main() -> None:
  """Times layers and whole steps, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: 9)")
  rounds = parser.parse_args().rounds
  print(f"{'value and both gradients':50} jax      ours      ratio")
  for shape in SHAPES:
    one_layer(shape, rounds)
  one_step("resnet18", 48, 128, rounds, width=16)
  one_step("resnet20", 32, 128, rounds)
  one_step("resnet50", 224, 8, max(rounds // 3, 1))


if __name__ == "__main__":
  main()
