"""How long a resumed run waits for its place in ImageNet: the first batch, from step 0 and from a late one.

1,281,167 examples, batches of 256. The array is of 8 x 8 pixels; the folder's entries are one file under as
many names as ImageNet has images, since only the order is measured. What both starts share is building the
pipeline; what the place costs is the difference.

  python benchmarks/start.py [--rounds 7] [--step 400000]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from jaxtl import data

COUNT, BATCH = 1_281_167, 256


def array() -> data.Source:
  """All in memory."""
  images = np.zeros((COUNT, 8, 8, 3), np.uint8)
  return data.from_arrays(images=images, labels=np.arange(COUNT) % 1000, classes=list(map(str, range(1000))))


def folder(place: Path) -> data.Source:
  """Files on the disk."""
  Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(place / "a.jpg")
  files = data.Files(place, ["a.jpg"] * COUNT)
  return data.Source(name="folder", classes=("a",), labels=np.zeros(COUNT), images=files)


def first_batch(source: data.Source, step: int) -> float:
  """Seconds until the batch of a step is there."""
  transforms = [partial(data.resize, size=8), data.normalize]
  before = time.monotonic()
  batches = data.train_batches(source, transforms, batch_size=BATCH, seed=0, start_step=step)
  next(iter(batches))
  return time.monotonic() - before


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=7, help="of each (integer; default: 7)")
  parser.add_argument("--step", type=int, default=400_000, help="the late step (integer; default: 400000)")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as place:
    for source in (array(), folder(Path(place))):
      first_batch(source, 0)
      pairs = [(first_batch(source, 0), first_batch(source, options.step)) for _ in range(options.rounds)]
      early, late = (statistics.median(column) for column in zip(*pairs, strict=True))
      place_cost = statistics.median(b - a for a, b in pairs)
      print(
        f"{source.name:8} first batch from step 0: {1000 * early:.0f} ms, from step {options.step:,}: "
        f"{1000 * late:.0f} ms; the place costs {1000 * place_cost:.1f} ms"
      )


if __name__ == "__main__":
  main()
