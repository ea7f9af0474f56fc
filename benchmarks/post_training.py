"""What a step of post-training costs: PoL of the last block beside PoF, with images and kept hidden states.

A vision transformer of 12 blocks, width 192, 197 tokens: the head is perturbed, and PoL moves the last block
alone. FLOPs and temporary memory are the compiler's; seconds are CPU seconds of steps that take turns, and a
ratio is that of two steps of one round. Exits with 1 where a ratio is not what it should be.

  python benchmarks/post_training.py [--rounds 5] [--batch-size 32] [--no-timing]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import losses, models, optim, tasks
from jaxtl.train import init_state, make_train_step

# Of the FLOPs of a PoF step: 2 + 2/12 forward passes instead of 4, and without what lies below the block.
FLOPS = {"PoL": (0.52, 0.56), "PoL, kept": (0.0, 0.12)}
# Of the temporary memory of a PoF step, and how far seconds may be from FLOPs, relatively.
MEMORY, SECONDS = 0.25, 0.15


def main() -> int:
  """Compiles, times and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5, help="timed steps of each kind (default: 5)")
  parser.add_argument("--batch-size", type=int, default=32, help="images per step (default: 32)")
  parser.add_argument("--no-timing", action="store_true", help="only what the compiler says")
  options = parser.parse_args()
  cases = {name: Case(name, options.batch_size) for name in ("PoF", "PoL", "PoL, kept")}
  seconds = {} if options.no_timing else timed(cases, options.rounds)
  return report(cases, seconds)


class Case:
  """A compiled step with its state and batch."""

  def __init__(self, name: str, batch_size: int) -> None:
    model = models.vit_ti16(num_classes=100)
    rule = optim.pof() if name == "PoF" else optim.pol(update="block12")
    tx = optim.sgd(peak_rate=1e-3, total_steps=1000, nesterov=True, weight_decay=5e-4)
    tx = optim.where(pattern=str(optim.trained_paths(rule, model)), transform=tx)
    task = tasks.classification(loss=losses.softmax_cross_entropy)
    key = jax.random.key(0)
    images = jax.random.normal(key, (batch_size, 224, 224, 3))
    params, stats = jax.jit(model.init)(key, images)
    rows: dict[str, Any] = {"label": jax.random.randint(key, (batch_size,), 0, 100)}
    rows["mask"] = jnp.ones(batch_size, bool)
    if name == "PoL, kept":
      rows["hidden"] = jax.jit(lambda x: model.prefix(params, stats, x, stop="block12"))(images)
    else:
      rows["image"] = images
    self.batch, self.key = {**rows, "weak": {name: x[::-1] for name, x in rows.items()}}, key
    self.state = init_state(params, stats, tx, gradient=rule)
    step = jax.jit(make_train_step(task.loss_fn(model), tx, gradient=rule), donate_argnums=0)
    self.step = step.lower(self.state, self.batch, key).compile()

  @property
  def flops(self) -> float:
    return float(self.step.cost_analysis()["flops"])

  @property
  def memory(self) -> int:
    return self.step.memory_analysis().temp_size_in_bytes

  def run(self) -> float:
    """CPU seconds of one step."""
    began = time.process_time()
    self.state, metrics = self.step(self.state, self.batch, self.key)
    jax.block_until_ready((self.state, metrics))
    return time.process_time() - began


def timed(cases: dict[str, Case], rounds: int) -> dict[str, list[float]]:
  """CPU seconds of each step, in turns; the first round warms up."""
  seconds: dict[str, list[float]] = {name: [] for name in cases}
  for number in range(rounds + 1):
    for name, case in cases.items():
      taken = case.run()
      if number:
        seconds[name].append(taken)
  return seconds


def report(cases: dict[str, Case], seconds: dict[str, list[float]]) -> int:
  """Prints the table; 1 where something is not as it should be."""
  base, wrong = cases["PoF"], []
  print("step        GFLOP  ratio    MiB  ratio" + ("   seconds  ratio" if seconds else ""))
  for name, case in cases.items():
    flops, memory = case.flops / base.flops, case.memory / base.memory
    line = f"{name:10} {case.flops / 1e9:6.1f} {flops:6.3f} {case.memory / 2**20:6.0f} {memory:6.3f}"
    if name in FLOPS:
      low, high = FLOPS[name]
      wrong += [] if low <= flops <= high else [f"{name}: FLOPs {flops:.3f}, not {low} to {high}"]
      wrong += [] if memory < MEMORY else [f"{name}: memory {memory:.3f}, not below {MEMORY}"]
    if seconds:
      ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["PoF"], strict=True))
      line += f" {statistics.median(seconds[name]):9.2f} {ratio:6.3f}"
      far = abs(ratio / flops - 1) > SECONDS
      wrong += [f"{name}: seconds {ratio:.3f}, FLOPs {flops:.3f}"] if far else []
    print(line)
  for problem in wrong:
    print(problem)
  return 1 if wrong else 0


if __name__ == "__main__":
  sys.exit(main())
