"""How long a run waits before it trains: for opening class folders, and for its place in ImageNet.

Opening lists 100,000 files and takes their fingerprint, which reads samples of every file. It is compared
with a listing in which names and sizes stand for the contents, so that replaced images do not show. The two
are measured in turn, in one process, with the files in the page cache.

The place in ImageNet is the first batch, from step 0 and from a late one.
1,281,167 examples, batches of 256. The array is of 8 x 8 pixels; the folder's entries are one file under as
many names as ImageNet has images, since only the order is measured. What both starts share is building the
pipeline; what the place costs is the difference.

  python benchmarks/start.py [--rounds 7] [--step 400000] [--files 100000] [--bytes 8000]
"""

from __future__ import annotations

import argparse
import hashlib
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


def write_class_folders(place: Path, count: int, size: int) -> Path:
  """100 class folders of `count` files of `size` bytes in all."""
  rng = np.random.default_rng(0)
  for number in range(count):
    folder = place / f"class{number % 100:02d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:06d}.jpg").write_bytes(rng.bytes(size))
  return place


def open_folders(root: Path) -> float:
  """Seconds until class folders are opened and their fingerprint is there."""
  before = time.monotonic()
  data.from_folder(folder=str(root)).fingerprint()
  return time.monotonic() - before


def open_by_names_and_sizes(root: Path) -> float:
  """The same by `Path.rglob`, where names and sizes stand for the contents."""
  before = time.monotonic()
  paths = []
  for folder in sorted(folder for folder in root.iterdir() if folder.is_dir()):
    files = sorted(file for file in folder.rglob("*") if not file.name.startswith(".") and file.is_file())
    paths += [str(file.relative_to(root)) for file in files if file.suffix.lower() == ".jpg"]
  digest = hashlib.sha256()
  for path in paths:
    file = root / path
    digest.update(f"{path}\0{file.stat().st_size if file.is_file() else -1}\0".encode())
  return time.monotonic() - before


def show_opening(count: int, size: int, rounds: int) -> None:
  """Measures both ways of opening class folders in turn."""
  with tempfile.TemporaryDirectory() as place:
    root = write_class_folders(Path(place), count, size)
    open_folders(root)
    pairs = [(open_by_names_and_sizes(root), open_folders(root)) for _ in range(rounds)]
  old, new = (statistics.median(column) for column in zip(*pairs, strict=True))
  ratio = statistics.median(b / a for a, b in pairs)
  print(
    f"opening {count:,} files of {size:,} bytes: by names and sizes {old:.2f} s, with samples of their bytes "
    f"{new:.2f} s, ratio {ratio:.2f}",
    flush=True,
  )


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
  parser.add_argument("--files", type=int, default=100_000, help="files to open (integer; default: 100000)")
  parser.add_argument("--bytes", type=int, default=8000, help="size of each (integer; default: 8000)")
  options = parser.parse_args()
  show_opening(options.files, options.bytes, options.rounds)
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
