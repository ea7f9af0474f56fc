"""What a training step costs: the smoothed hinge and SAM as ratios to plain cross-entropy, in one process.

The steps take turns, so that whatever else the machine does falls on all of them. A ratio is that of two
steps of one round; its median counts, with the quartiles beside it. Exits with 1 where one is over its limit.

  python benchmarks/steps.py [--rounds 25] [--batch-size 128]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from jaxtl import losses, models, optim, tasks
from jaxtl.train import init_state, make_train_step

LIMITS = {"smoothed hinge": 1.02, "sam": 2.05}


def main() -> int:
  """Times the steps and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=25, help="timed steps of each kind (default: 25)")
  parser.add_argument("--batch-size", type=int, default=128, help="images per step (default: 128)")
  parser.add_argument("--num-classes", type=int, default=10, help="classes (default: 10)")
  options = parser.parse_args()
  model = models.resnet20(num_classes=options.num_classes)
  key = jax.random.key(0)
  batch = {
    "image": jax.random.normal(key, (options.batch_size, 32, 32, 3)),
    "label": jax.random.randint(key, (options.batch_size,), 0, options.num_classes),
    "mask": jnp.ones(options.batch_size, bool),
  }

  def smoothed_hinge(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return losses.multiclass_smoothed_hinge(logits, labels, margin=7.0)

  kinds = {
    "cross-entropy": (losses.softmax_cross_entropy, optim.plain()),
    "smoothed hinge": (smoothed_hinge, optim.plain()),
    "sam": (losses.softmax_cross_entropy, optim.sam(rho=0.05)),
  }
  tx = optim.sgd(peak_rate=0.01, total_steps=1000)
  params, batch_stats = jax.jit(model.init)(key, batch["image"])
  steps, states = {}, {}
  for name, (loss, rule) in kinds.items():
    task = tasks.classification(loss=loss)
    steps[name] = jax.jit(make_train_step(task.loss_fn(model), tx, gradient=rule), donate_argnums=0)
    copied = jax.tree.map(jnp.copy, (params, batch_stats))
    states[name] = init_state(*copied, tx, gradient=rule)
  seconds: dict[str, list[float]] = {name: [] for name in kinds}
  for number in range(options.rounds + 2):
    for name, step in steps.items():
      began = time.process_time()
      states[name], metrics = step(states[name], batch, key)
      jax.block_until_ready((states[name], metrics))
      if number >= 2:  # the first two compile and warm up
        seconds[name].append(time.process_time() - began)
  print(f"ResNet-20, {options.batch_size} images, {options.num_classes} classes: CPU seconds per step")
  over = []
  for name, times in seconds.items():
    ratios = [time / base for time, base in zip(times, seconds["cross-entropy"], strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    limit = f"  (at most {LIMITS[name]})" if name in LIMITS else ""
    print(f"{name:16} {statistics.median(times):.3f} s  ratio {ratio:.3f} ({low:.3f} to {high:.3f}){limit}")
    over += [name] if ratio > LIMITS.get(name, ratio) else []
  return 1 if over else 0


if __name__ == "__main__":
  sys.exit(main())
