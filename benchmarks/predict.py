"""From a command to an answer: the seconds of `jaxtl predict` for one photo, and where they go.

A network with random weights classifies one JPEG of 640 x 480 pixels, each time in a process of its own: once
with an empty compilation cache, then with a full one. Another process reports its stages. "TensorFlow" is its
import alone, which the command does without. The last part prepares photos in one process, by the command's
way and by the input pipeline of `jaxtl eval`, in turn, and compares the pixels.

With --torch-python, timm's network of the same name answers the same photo in turn, without a compiler.

Seconds are of the CPU, and elapsed in brackets: other work on the machine changes the latter.

  python benchmarks/predict.py [--model resnet50] [--rounds 5] [--photos 64] [--torch-python PYTHON]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 224

STAGES = """
import sys, time
laps, before = [], (time.process_time(), time.perf_counter())
def lap(name):
  global before
  now = (time.process_time(), time.perf_counter())
  laps.append((name, now[0] - before[0], now[1] - before[1]))
  before = now
import jax; lap("import jax")
import flax.linen, orbax.checkpoint; lap("import flax, orbax")
import jaxtl.cli.predict; lap("import jaxtl")
jaxtl.cli.predict.keep_compiled()
import jaxtl; model = jaxtl.load(sys.argv[1]); lap("load the checkpoint")
image = model.preprocess(open(sys.argv[2], "rb").read())[None]; lap("read the photo")
network = model._forward(("logits", "probabilities"))
lowered = network.lower(model.params, model.batch_stats, image); lap("trace the network")
compiled = lowered.compile(); lap("compile, or find in the cache")
compiled(model.params, model.batch_stats, image)["logits"].block_until_ready(); lap("first run")
compiled(model.params, model.batch_stats, image)["logits"].block_until_ready(); lap("second run")
for name, cpu, elapsed in laps: print(f"  {name:32} {cpu:6.2f} ({elapsed:.2f})")
"""

TIMM = """
import sys, timm, torch
from PIL import Image
model = timm.create_model(sys.argv[3]).eval()
config = timm.data.resolve_model_data_config(model)
image = timm.data.create_transform(**config)(Image.open(sys.argv[2]).convert("RGB"))
with torch.inference_mode(): print(model(image[None]).softmax(-1).topk(5))
"""


def save_network(folder: Path, name: str) -> Path:
  """Writes a checkpoint with random weights and ImageNet's preprocessing."""
  import jax

  from jaxtl import data, models
  from jaxtl.checkpoints import checkpoint

  model = getattr(models, name)(num_classes=1000)
  params, stats = jax.jit(model.init)(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32))
  task = dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"))
  config = dict(model=dict(make=f".models.{name}"), task=task, image_shape=[SIZE, SIZE, 3])
  config |= dict(transforms=data.Preprocessing(size=SIZE).specs(), classes=list(map(str, range(1000))))
  weights = checkpoint.Weights(*jax.device_get((params, stats)), config, "random")
  checkpoint.save_weights(weights, folder)
  return folder


def write_photos(folder: Path, count: int) -> list[Path]:
  """Smooth noise, which compresses like a photo."""
  folder.mkdir()
  paths = []
  for number in range(count):
    coarse = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
    paths.append(folder / f"{number}.jpg")
    image.save(paths[-1], quality=90)
  return paths


def seconds_of(command: Sequence[str], cache: Path | None = None) -> tuple[float, float]:
  """(CPU seconds, elapsed seconds) of a process."""
  env = os.environ | ({} if cache is None else {"XDG_CACHE_HOME": str(cache)})
  used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
  now = resource.getrusage(resource.RUSAGE_CHILDREN)
  cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
  return cpu, time.perf_counter() - start


def show(title: str, rounds: Sequence[tuple[float, float]]) -> None:
  cpu, elapsed = (statistics.median(column) for column in zip(*rounds, strict=True))
  print(f"{title:40} {cpu:6.2f} ({elapsed:.2f})", flush=True)


def time_commands(weights: Path, photo: Path, cache: Path, options: argparse.Namespace) -> None:
  """Times one answer: with an empty cache, then with a full one in turn with what it is compared with."""
  python = [sys.executable]
  predict = [*python, "-m", "jaxtl", "predict", str(weights), str(photo)]
  show("jaxtl predict, nothing compiled before", [seconds_of(predict, cache)])
  rivals = {"jaxtl predict": predict, "import tensorflow": [*python, "-c", "import tensorflow"]}
  if options.torch_python:
    code = [options.torch_python, "-c", TIMM, str(weights), str(photo), options.model]
    rivals[f"timm's {options.model}"] = code
  found: dict[str, list[tuple[float, float]]] = {title: [] for title in rivals}
  for _ in range(options.rounds):
    for title, command in rivals.items():
      found[title].append(seconds_of(command, cache))
  for title, rounds in found.items():
    show(title, rounds)
  print("stages of jaxtl predict", flush=True)
  env = os.environ | {"XDG_CACHE_HOME": str(cache)}
  subprocess.run([*python, "-c", STAGES, str(weights), str(photo)], check=True, env=env)


def time_pixels(weights: Path, photos: Sequence[Path], rounds: int) -> None:
  """Times the preparation of many photos on both ways, and prints their largest difference."""
  import jaxtl
  from jaxtl import data
  from jaxtl.inference.batches import ahead

  loaded = jaxtl.load(weights)
  source = data.Source(
    name="photos",
    classes=("a",),
    labels=np.zeros(len(photos)),
    images=data.Files(photos[0].parent, [path.name for path in photos]),
  )
  realized = [spec.realize() for spec in loaded.preprocess.transforms]

  def ours() -> np.ndarray:
    prepare: Callable[[Path], np.ndarray] = lambda path: loaded.preprocess(path.read_bytes())  # noqa: E731
    return np.concatenate([np.stack(rows) for rows in ahead(prepare, photos, size=32)])

  def pipeline() -> np.ndarray:
    batches = data.eval_batches(source, realized, batch_size=32)
    return np.concatenate([batch["image"][batch["mask"]] for batch in batches])

  difference = np.abs(ours() - pipeline()).max()
  seconds: dict[Callable[[], np.ndarray], list[float]] = {ours: [], pipeline: []}
  for _ in range(rounds):
    for way, found in seconds.items():
      before = time.process_time()
      way()
      found.append(time.process_time() - before)
  first, second = (statistics.median(found) / len(photos) for found in seconds.values())
  print(f"one photo of {len(photos)}: {1000 * first:.1f} ms, by the pipeline {1000 * second:.1f} ms (CPU)")
  print(f"largest difference of their pixels, normalised: {difference:.1e}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", default="resnet50", help="one of jaxtl.models (text; default: resnet50)")
  parser.add_argument("--rounds", type=int, default=5, help="of each (integer; default: 5)")
  parser.add_argument("--photos", type=int, default=64, help="to prepare (integer; default: 64)")
  parser.add_argument("--torch-python", help="an interpreter with timm (path; default: leave timm out)")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as place:
    weights = save_network(Path(place, "weights"), options.model)
    photos = write_photos(Path(place, "photos"), options.photos)
    time_commands(weights, photos[0], Path(place, "cache"), options)
    time_pixels(weights, photos, options.rounds)


if __name__ == "__main__":
  main()
