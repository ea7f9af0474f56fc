"""How fast images are decoded, cropped at random to 224 pixels and flipped, in images per second.

The images are 500 x 375 JPEGs of about 100 KB, made from a photograph that scikit-image carries. Each line
gives images per second of CPU time (what one core does, whatever else runs) and of wall time.

  python benchmarks/input.py [--images 128] [--seconds 4] [--threads N]
  python benchmarks/input.py --policies

The second command adds augmentations to the same pipeline, on one thread, and gives the images per CPU second
of each relative to the pipeline without it, measured directly before.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def jpegs(count: int) -> list[bytes]:
  """Different 500 x 375 crops of one photograph, at the quality that gives about 100 KB."""
  import skimage

  with Image.open(Path(skimage.__file__).parent / "data" / "coffee.png") as image:
    photograph = image.convert("RGB").resize((750, 500), Image.Resampling.LANCZOS)
  rng = np.random.default_rng(0)
  files = []
  for _ in range(count):
    x, y = int(rng.integers(0, 251)), int(rng.integers(0, 126))
    buffer = io.BytesIO()
    photograph.crop((x, y, x + 500, y + 375)).save(buffer, "JPEG", quality=98)
    files.append(buffer.getvalue())
  return files


def ours(
  files: list[bytes], *, threads: int, policy: tuple[Any, ...] = (), mix: tuple[Any, ...] = ()
) -> Iterator[int]:
  """The pipeline of this library, with antialiased resizing; yields the images of each batch.

  Args:
    policy: transforms after crop and flip.
    mix: transforms of the batch.
  """
  from jaxtl import data

  source = data.Source(name="jpegs", classes=("a",), labels=np.zeros(len(files)), images=data.Encoded(files))
  transforms = [partial(data.random_resized_crop, size=224), data.flip_left_right, *policy, data.normalize]
  options = dict(batch_size=BATCH, seed=0, batch_transforms=mix, num_threads=threads)
  for batch in data.train_batches(source, transforms, **options):
    yield len(batch["label"])


def policies() -> dict[str, dict[str, tuple[Any, ...]]]:
  """The augmentations, by name: keywords of `ours`."""
  from jaxtl import data

  mean = (123.675, 116.28, 103.53)
  pspnet = (
    partial(data.random_scale, low=0.5, high=2.0),
    partial(data.rotate, degrees=10.0, probability=0.5, fill=mean),
    data.gaussian_blur,
    partial(data.random_crop, size=224, fill=mean),
  )
  both = [data.cutmix, partial(data.mixup, alpha=1.0)]
  return {
    "PSPNet's scale, rotation, blur and crop": dict(policy=pspnet),
    "rand_augment": dict(policy=(data.rand_augment,)),
    "trivial_augment": dict(policy=(data.trivial_augment,)),
    "auto_augment, imagenet": dict(policy=(data.auto_augment,)),
    "aug_mix, torchvision": dict(policy=(data.aug_mix,)),
    "aug_mix, original_imagenet": dict(policy=(partial(data.aug_mix, variant="original_imagenet"),)),
    "aug_mix_jsd (three images for each)": dict(policy=(data.aug_mix_jsd,)),
    "mixup": dict(mix=(data.mixup,)),
    "one_of_batch, cutmix or mixup": dict(mix=(partial(data.one_of_batch, transforms=both),)),
    "timm_mix, batch": dict(mix=(partial(data.timm_mix, cutmix_alpha=1.0),)),
    "timm_mix, element": dict(mix=(partial(data.timm_mix, cutmix_alpha=1.0, mode="element"),)),
  }


def measure_policies(files: list[bytes], run: Callable[..., float]) -> None:
  """Prints the rate of each augmentation relative to the pipeline without one."""
  for name, keywords in policies().items():
    plain = run("without", partial(ours, files, threads=1))
    rate = run(name, partial(ours, files, threads=1, **keywords))
    print(f"{name:52s} {rate / plain:8.3f} of the rate without", flush=True)


def bare_decode(files: list[bytes]) -> Iterator[int]:
  """libjpeg-turbo decoding whole images, and nothing else: a bound for whoever decodes whole images."""
  from jaxtl.data.lazy_tensorflow import tf

  decode = tf.function(
    lambda encoded: tf.io.decode_jpeg(encoded, channels=3), input_signature=[tf.TensorSpec([], tf.string)]
  )
  tensors = [tf.constant(file) for file in files]
  while True:
    for tensor in tensors:
      decode(tensor)
      yield 1


def pillow_decode(files: list[bytes]) -> Iterator[int]:
  """The same by Pillow."""
  while True:
    for file in files:
      Image.open(io.BytesIO(file)).convert("RGB")
      yield 1


def torchvision_loader(files: list[bytes], *, tensors: bool) -> Iterator[int]:
  """torchvision's training transforms in one process, on Pillow images or on tensors, batched."""
  import torch
  from torchvision import io as torch_io
  from torchvision.transforms import v2

  torch.set_num_threads(1)
  if tensors:
    encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    load = [partial(torch_io.decode_jpeg, file, mode=torch_io.ImageReadMode.RGB) for file in encoded]
    convert = [v2.ToDtype(torch.float32, scale=True)]
  else:
    load = [lambda file=file: Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    convert = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
  change = v2.Compose(
    [
      v2.RandomResizedCrop(224, antialias=True),
      v2.RandomHorizontalFlip(),
      *convert,
      v2.Normalize(MEAN, STD),
    ]
  )
  while True:
    for start in range(0, len(load) - BATCH + 1, BATCH):
      torch.stack([change(read()) for read in load[start : start + BATCH]])
      yield BATCH


def measure(name: str, make: Callable[[], Iterator[int]], *, seconds: float) -> float:
  """Prints the throughput of a stream after a warm-up of three items; returns items per CPU second."""
  stream = make()
  for _ in range(3):
    next(stream)
  images, wall, cpu = 0, time.perf_counter(), time.process_time()
  while time.perf_counter() - wall < seconds:
    images += next(stream)
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  print(f"{name:52s} {images / cpu:8.0f} per CPU second {images / wall:8.0f} per second", flush=True)
  return images / cpu


def main() -> None:
  """Measures each in turn; torchvision in a process of its own, because it and TensorFlow crash in one."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--images", type=int, default=128, help="different images")
  parser.add_argument("--seconds", type=float, default=4.0, help="time for each line")
  parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the last of our lines")
  parser.add_argument("--torchvision", action="store_true", help="only torchvision's lines")
  parser.add_argument("--policies", action="store_true", help="only augmentations, relative to none")
  options = parser.parse_args()
  files = jpegs(options.images)
  run = partial(measure, seconds=options.seconds)
  if options.torchvision:
    for kind in ("tensors", "Pillow"):
      loader = partial(torchvision_loader, files, tensors=kind == "tensors")
      run(f"torchvision {kind}, the same, 1 process", loader)
    return
  from jaxtl.data.lazy_tensorflow import tf

  tf.config.threading.set_intra_op_parallelism_threads(1)
  if options.policies:
    measure_policies(files, run)
    return
  size = np.mean([len(file) for file in files]) / 1000
  print(f"{len(files)} JPEGs of 500 x 375, {size:.0f} KB each", flush=True)
  run("bare decode, libjpeg-turbo, 1 thread", lambda: bare_decode(files))
  run("bare decode, Pillow, 1 thread", lambda: pillow_decode(files))
  for threads in sorted({1, options.threads}):
    run(f"jaxtl, decode + crop 224 + flip, {threads} threads", partial(ours, files, threads=threads))
  if importlib.util.find_spec("torchvision") is None:
    print("torchvision is not installed: its lines are left out")
  else:
    subprocess.run([sys.executable, *sys.argv, "--torchvision"], check=True)


if __name__ == "__main__":
  main()
