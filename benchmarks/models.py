"""Evaluation and training step of whole models beside torch's: same weights, same images, same threads.

Ours runs in this process, torch in one of its own that answers call by call, so that both take turns. Seconds
are those of the CPU with one thread, and elapsed ones with more; a ratio is that of one round to the faster
of torch's two memory layouts in the same round, here its median. Both processes are held to as many cores as
threads.

  python benchmarks/models.py --torch-python PYTHON [--models resnet50 vit_s16] [--threads 1] [--rounds 7]

PYTHON is an interpreter that has torch, torchvision and timm; the default is this one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TORCH = Path(__file__).with_name("torch_models.py")
WARM = 2  # rounds that compile and warm up, and are not counted
KINDS, LAYOUTS = ("eval", "step"), ("eager", "channels_last")


@dataclasses.dataclass(frozen=True)
class Case:
  """A model, the layout that has its names in torch, and a batch."""

  title: str
  layout: str
  size: int
  batch: int
  classes: int = 1000


CASES = {
  "resnet50": Case("ResNet-50", "torchvision", 224, 8),
  "resnet20": Case("ResNet-20 (CIFAR)", "akamaster", 32, 128, classes=10),
  "vit_s16": Case("ViT-S/16", "timm", 224, 8),
  "densenet121": Case("DenseNet-121", "torchvision", 224, 8),
}


class Ours:
  """A model of ours, its batch, and its two runs.

  Args:
    name: of the model.
    case: its batch.
  """

  def __init__(self, name: str, case: Case) -> None:
    import jax

    from jaxtl import losses, models, optim, tasks
    from jaxtl.train import init_state, make_train_step

    rng = np.random.default_rng(0)
    self.model = getattr(models, name)(num_classes=case.classes)
    self.image = rng.standard_normal((case.batch, case.size, case.size, 3)).astype(np.float32)
    self.label = rng.integers(0, case.classes, case.batch)
    key = jax.random.key(0)
    params, stats = jax.jit(self.model.init)(key, self.image)
    self.weights = jax.device_get({"params": params, "batch_stats": stats})
    batch = {"image": self.image, "label": self.label.astype(np.int32), "mask": np.ones(case.batch, bool)}
    tx, rule = optim.sgd(peak_rate=0.01, total_steps=1000), optim.plain()
    loss = tasks.classification(loss=losses.softmax_cross_entropy).loss_fn(self.model)
    update = jax.jit(make_train_step(loss, tx, gradient=rule), donate_argnums=0)
    logits = jax.jit(lambda params, stats, x: self.model.apply(params, stats, x)[0]["logits"])
    given, x = jax.device_put((batch, self.image))
    state = init_state(params, stats, tx, gradient=rule)
    held = jax.device_put(self.weights)

    def step() -> Any:
      nonlocal state
      state, metrics = update(state, given, key)
      return jax.block_until_ready((state, metrics))

    def evaluate() -> Any:
      return jax.block_until_ready(logits(held["params"], held["batch_stats"], x))

    self.runs: dict[str, Callable[[], Any]] = {"eval": evaluate, "step": step}

  def write(self, folder: Path, layout: str) -> None:
    """Weights and batch for torch."""
    from jaxtl.pretrained import LAYOUTS, write
    from jaxtl.train.step import shapes_of

    entries = LAYOUTS[layout].entries(self.model, shapes_of(self.model, self.image.shape[1:]))
    np.savez(folder / "weights.npz", **write(entries, self.weights))
    np.savez(folder / "batch.npz", image=self.image, label=self.label)


def compare(name: str, case: Case, *, python: str, threads: int, rounds: int) -> list[str]:
  """Rows of the table for one model."""
  clock = time.process_time if threads == 1 else time.perf_counter
  ours = Ours(name, case)
  with tempfile.TemporaryDirectory() as folder:
    ours.write(Path(folder), case.layout)
    job = {"model": name, "classes": case.classes, "threads": threads}
    (Path(folder) / "job.json").write_text(json.dumps(job))
    pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([python, str(TORCH), folder], **pipes) as torch:
      assert torch.stdin is not None
      assert torch.stdout is not None
      if torch.stdout.readline() != "ready\n":
        raise SystemExit(f"torch could not run {name}")
      theirs = np.load(Path(folder) / "logits.npy")
      difference = np.abs(np.asarray(ours.runs["eval"]()) - theirs).max() / np.abs(theirs).max()
      seconds: dict[tuple[str, str], list[float]] = {}
      for number in range(rounds + WARM):
        for kind in KINDS:
          began = clock()
          ours.runs[kind]()
          took = {"ours": clock() - began}
          for layout in LAYOUTS:
            print(kind, layout, file=torch.stdin, flush=True)
            took[layout] = float(torch.stdout.readline())
          if number >= WARM:
            for who, value in took.items():
              seconds.setdefault((kind, who), []).append(value)
      torch.stdin.close()
  print(f"{name}: logits of both differ by {difference:.1e} of the largest", file=sys.stderr)
  what = f"{case.title}, {case.batch} at {case.size} px"
  return [row(f"{what}, {kind}", *(seconds[kind, who] for who in ("ours", *LAYOUTS))) for kind in KINDS]


def row(what: str, ours: list[float], eager: list[float], channels_last: list[float]) -> str:
  """One line of the table."""
  ratios = [own / min(both) for own, *both in zip(ours, eager, channels_last, strict=True)]
  low, ratio, high = statistics.quantiles(ratios, n=4)
  times = " | ".join(f"{statistics.median(values):.3f}" for values in (ours, eager, channels_last))
  return f"| {what} | {times} | {ratio:.2f} ({low:.2f} to {high:.2f}) |"


def main() -> None:
  """Compares the models one after the other, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has torch")
  parser.add_argument("--models", nargs="+", default=[*CASES], choices=[*CASES], help="default: all")
  parser.add_argument("--threads", type=int, default=1, help="threads and cores of each side (default: 1)")
  parser.add_argument("--rounds", type=int, default=7, help="timed rounds, at least 2 (default: 7)")
  options = parser.parse_args()
  # XLA takes as many threads as the process may use cores, and the child inherits them.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
  print("| model, batch, what | ours | torch | torch, channels last | ratio to the faster (quartiles) |")
  print("|---|---|---|---|---|")
  for name in options.models:
    more = dict(python=options.torch_python, threads=options.threads, rounds=options.rounds)
    for line in compare(name, CASES[name], **more):
      print(line, flush=True)


if __name__ == "__main__":
  main()
