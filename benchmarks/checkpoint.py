"""What the checkpoint contract costs: a verified save and restore beside orbax's own, in one process.

The state is that of ResNet-50 with momentum: 51 million numbers, 205 MB. CPU seconds of a save that has
reached the disk and a restore of it: ours write the SHA-256 of every array and file, and compare every array
and every file without arrays; orbax's own are its defaults. Then the part of an asynchronous save that the
training waits for, beside a training step.

  python benchmarks/checkpoint.py [--rounds 5] [--batch 32] [--folder DIR]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxtl import models, optim, tasks, train
from jaxtl.checkpoints.checkpointer import Checkpointer
from jaxtl.losses import softmax_cross_entropy
from jaxtl.train import sharding
from jaxtl.train.step import init_model
from jaxtl.types import TrainState

CONFIG: dict[str, Any] = {"model": {"make": ".models.resnet50"}, "classes": [], "image_shape": [224, 224, 3]}


def resnet50(mesh: Any) -> tuple[Callable[..., Any], TrainState]:
  """The compiled step and a state on the devices."""
  model = models.resnet50(num_classes=1000)
  task = tasks.classification(loss=softmax_cross_entropy)
  tx = optim.sgd(peak_rate=0.1, total_steps=1000)
  params, stats = init_model(model, jax.random.key(0), (224, 224, 3))
  state = train.init_state(params, stats, tx, gradient=optim.plain())
  step = train.make_train_step(task.loss_fn(model), tx, gradient=optim.plain())
  return jax.jit(step, donate_argnums=0), sharding.put_replicated(state, mesh)


def ours(state: TrainState, folder: Path) -> None:
  """A save to its end, and what a run does when it is started again: verify, restore, compare."""
  saver = Checkpointer(folder)
  saver.save(state, CONFIG, last=True)
  saver.close()
  again = Checkpointer(folder)
  jax.block_until_ready(again.restore(state))
  again.close()


def orbax_alone(state: TrainState, folder: Path) -> None:
  """The same by orbax's defaults, nothing compared."""
  items = {"params": state.params, "batch_stats": state.batch_stats, "opt_state": state.opt_state}
  with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as saver:
    saver.save(folder / "0", args=ocp.args.StandardSave(items))
    saver.wait_until_finished()
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, items)
    jax.block_until_ready(saver.restore(folder / "0", args=ocp.args.StandardRestore(like)))


def cpu_seconds(work: Callable[[TrainState, Path], None], state: TrainState, folder: Path) -> float:
  """Of all threads, for one save and restore in an empty folder."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  before = time.process_time()
  work(state, folder)
  return time.process_time() - before


def waited(state: TrainState, folder: Path) -> float:
  """Wall seconds until an asynchronous save gives the training its arrays back."""
  shutil.rmtree(folder, ignore_errors=True)
  saver = Checkpointer(folder)
  before = time.monotonic()
  saver.save(state, CONFIG)
  took = time.monotonic() - before
  saver.close()
  return took


def step_seconds(step: Callable[..., Any], state: TrainState, *, batch: int, mesh: Any) -> float:
  """Wall seconds of a step, after one that compiles."""
  data = {
    "image": jnp.ones((batch, 224, 224, 3)),
    "label": jnp.zeros(batch, jnp.int32),
    "mask": jnp.ones(batch, bool),
  }
  placed = sharding.put_batch(jax.device_get(data), mesh)
  took = []
  for _ in range(3):
    before = time.monotonic()
    state, metrics = step(state, placed, jax.random.key(0))
    jax.block_until_ready((state, metrics))
    took.append(time.monotonic() - before)
  return min(took[1:])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=5, help="of each (integer; default: 5)")
  parser.add_argument("--batch", type=int, default=32, help="images of the step (integer; default: 32)")
  parser.add_argument("--folder", type=Path, help="on the disk to measure (path; default: the system's own)")
  options = parser.parse_args()
  mesh = train.make_mesh(1)
  step, state = resnet50(mesh)
  with tempfile.TemporaryDirectory(dir=options.folder) as place:
    folder = Path(place) / "c"
    for work in (orbax_alone, ours):
      cpu_seconds(work, state, folder)  # the first has imports and threads to start
    pairs = [
      (cpu_seconds(orbax_alone, state, folder), cpu_seconds(ours, state, folder))
      for _ in range(options.rounds)
    ]
    ratios = [mine / theirs for theirs, mine in pairs]
    theirs, mine = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"save and restore   orbax alone {theirs:.2f} CPU s, ours {mine:.2f} CPU s")
    print(f"ratio              {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    blocking = statistics.median(waited(state, folder) for _ in range(options.rounds))
  seconds = step_seconds(step, state, batch=options.batch, mesh=mesh)
  print(f"training waits     {blocking:.3f} s; a step of {options.batch} images takes {seconds:.2f} s")
  print(f"share              {100 * blocking / seconds:.1f} % of a step")


if __name__ == "__main__":
  main()
