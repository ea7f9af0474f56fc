"""What a sweep over coefficients costs: the path that is kept, beside the loop that reloads the weights.

A ResNet-20 and a copy of it with noise, on drawn images. `kept` scores 21 coefficients as the patching study
does: both ends on the devices, one mixture at a time. `reloaded` is the straightforward loop: for each one it
reads both checkpoints, mixes them on the host and puts them on the devices. Then what one coefficient costs
beside a plain forward pass, in time and in memory.

  python benchmarks/patching.py [--images 512] [--rounds 3] [--model resnet20]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtl import data, models, train, tree, weights
from jaxtl.checkpoints import checkpoint
from jaxtl.config import Spec
from jaxtl.studies.patching import frozen_heads
from jaxtl.studies.patching.backbone import Backbone
from jaxtl.studies.patching.path import WeightPath
from jaxtl.studies.patching.settings import PatchTask
from jaxtl.studies.patching.tasks import Tasks
from jaxtl.train import Runtime
from jaxtl.train.inputs import Data
from jaxtl.train.step import init_model

ALPHAS = tuple(number / 20 for number in range(21))


def images(*, number: int, seed: int) -> data.Source:
  """Noise with labels: what it is of does not matter here."""
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (number, 32, 32, 3)).astype(np.uint8)
  return data.from_arrays(images=pixels, labels=np.arange(number) % 10, name=f"noise {seed}")


def checkpoints(name: str, folder: Path) -> tuple[str, str]:
  """Two checkpoints of one network."""
  model = getattr(models, name)(num_classes=10)
  params, stats = init_model(model, jax.random.key(0), (32, 32, 3))
  noise = tree.random_like(jax.random.key(1), params)
  config = {
    "model": {"make": f".models.{name}"},
    "classes": [str(number) for number in range(10)],
    "image_shape": [32, 32, 3],
    "transforms": None,
  }
  paths = []
  for number, one in enumerate((params, tree.add(params, tree.scale(1e-3, noise)))):
    held = checkpoint.Weights(jax.device_get(one), jax.device_get(stats), config, "benchmark")
    checkpoint.save_weights(held, folder / str(number))
    paths.append(str(folder / str(number)))
  return paths[0], paths[1]


def bench_of(start: str, number: int) -> Tasks:
  """Two tasks behind the head of the checkpoint."""

  def part(seed: int) -> Data:
    source = Spec("images", "make", {"number": number, "seed": seed}, images)
    transforms = (Spec(".data.normalize", "fn", {}, data.normalize),)
    return Data(source=source, transforms=transforms, batch_size=256)

  runtime = Runtime(train.make_mesh(1))
  backbone = Backbone.of(checkpoint.load(start), side=32, trust=False)
  own = Spec(".studies.heads.own", "fn", {}, frozen_heads.own)
  tasks = {name: PatchTask(part(2 * i), part(2 * i + 1)) for i, name in enumerate(("old", "new"))}
  return Tasks(tasks, backbone, runtime, head=own, seed=0)


def ends(tasks: Tasks, paths: tuple[str, str]) -> list[Any]:
  held = [checkpoint.load(path) for path in paths]
  head = tasks.backbone.head
  return [
    {
      "params": {name: part for name, part in one.params.items() if name != head},
      "batch_stats": one.batch_stats,
    }
    for one in held
  ]


def kept(tasks: Tasks, paths: tuple[str, str]) -> list[float]:
  path = WeightPath(tasks, *ends(tasks, paths))
  return [sum(one["loss"] for one in path.scores(alpha, ["old", "new"]).values()) for alpha in ALPHAS]


def reloaded(tasks: Tasks, paths: tuple[str, str]) -> list[float]:
  found = []
  for alpha in ALPHAS:
    before, after = ends(tasks, paths)
    mixed = jax.tree.map(lambda x, y, a=alpha: (1 - a) * x + a * y, before, after)
    found.append(sum(tasks.scores(name, "validation", mixed)["loss"] for name in ("old", "new")))
  return found


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
  began = time.perf_counter()
  result = work()
  return time.perf_counter() - began, result


def cost_of_one(tasks: Tasks, paths: tuple[str, str], rounds: int) -> tuple[float, float]:
  """A coefficient's time in forward passes over the same images; its memory in copies of the weights."""
  before, after = ends(tasks, paths)
  path = WeightPath(tasks, before, after)
  size = sum(x.nbytes for x in jax.tree.leaves(before))
  path.scores(0.5, ["old", "new"])
  standing = sum(x.nbytes for x in jax.live_arrays())
  most = 0
  score = Tasks.scores

  def watched(self: Tasks, name: str, part: str, found: Any) -> Any:
    nonlocal most
    most = max(most, sum(x.nbytes for x in jax.live_arrays()) - standing)
    return score(self, name, part, found)

  Tasks.scores = watched  # type: ignore[method-assign]
  path.scores(0.25, ["old", "new"])
  Tasks.scores = score  # type: ignore[method-assign]
  mixture = jax.device_put(weights.interpolate(before, after, 0.5))
  times = []
  for number in range(rounds):
    plain, _ = seconds(lambda: [tasks.scores(name, "validation", mixture) for name in ("old", "new")])
    mixed, _ = seconds(lambda n=number: path.scores(0.3 + 0.01 * n, ["old", "new"]))
    times.append(mixed / plain)
  return statistics.median(times), most / size


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--images", type=int, default=512, help="of each task (integer; default: 512)")
  parser.add_argument("--rounds", type=int, default=3, help="of each (integer; default: 3)")
  parser.add_argument("--model", default="resnet20", help="a network for 32 pixels (name; default: resnet20)")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    paths = checkpoints(options.model, Path(folder))
    tasks = bench_of(paths[0], options.images)
    kept(tasks, paths)  # compiles, and reads the images
    ratios = []
    for _ in range(options.rounds):
      slow, expected = seconds(lambda: reloaded(tasks, paths))
      fast, found = seconds(lambda: kept(tasks, paths))
      np.testing.assert_allclose(found, expected, rtol=1e-4)
      ratios.append(slow / fast)
      print(f"21 coefficients    reloaded {slow:.2f} s, kept {fast:.2f} s: {slow / fast:.2f} times")
    print(f"ratio              {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    time_ratio, copies = cost_of_one(tasks, paths, 3 * options.rounds)
    print(f"one coefficient    {time_ratio:.2f} forward passes, {copies:.2f} copies of the weights")


if __name__ == "__main__":
  main()
