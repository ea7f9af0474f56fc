"""Every family and size that a library builds here, at the smallest image that says something."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from jaxtl import config, tree
from jaxtl.pretrained import LAYOUTS
from jaxtl.pretrained.layouts.layout import Entry, write
from jaxtl.pretrained.verify import keywords_of
from jaxtl.train.step import shapes_of

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Case:
  """A model in a layout, with random weights."""

  layout: str
  model: str
  keywords: dict[str, Any] = dataclasses.field(default_factory=dict)
  size: int = 64

  def __str__(self) -> str:
    extra = "".join(f"-{key}={value}" for key, value in self.keywords.items() if key in SHOWN)
    return f"{self.layout}-{self.model}{extra}-{self.size}"

  @property
  def text(self) -> bool:
    return self.model.startswith("clip_text")

  def spec(self) -> config.Spec:
    chosen = {**LAYOUTS[self.layout].keywords(self.model), **self.keywords}
    return config.spec({"make": f".models.{self.model}", **chosen})


RECTIFIED = "resnet|densenet|mobilenet|wide|efficientnet_lite"  # by ReLU or ReLU6
SHOWN = ("pooling", "padding", "activation")
QUIET = dict(dropout=0.0, drop_path=0.0)


TORCHVISION = [
  *(Case("torchvision", f"resnet{n}") for n in (18, 34, 50, 101, 152)),
  *(Case("torchvision", f"densenet{n}") for n in (121, 161, 169, 201)),
  *(Case("torchvision", f"efficientnet_b{n}", QUIET, size=64 if n < 5 else 128) for n in range(8)),
  Case("torchvision", "mobilenet_v2", QUIET),
  *(Case("torchvision", name, dict(image_size=64)) for name in ("vit_b16", "vit_b32")),
  *(Case("torchvision", name, dict(image_size=64, depth=4)) for name in ("vit_l16", "vit_l32")),
]
TIMM = [
  *(Case("timm", f"resnet{n}") for n in (18, 50)),
  *(Case("timm", f"densenet{n}") for n in (121, 201)),
  *(Case("timm", f"efficientnet_b{n}", QUIET) for n in range(8)),
  Case("timm", "efficientnet_b0", QUIET, size=65),
  Case("timm", "efficientnet_b0", dict(padding="symmetric", bn_epsilon=1e-5, **QUIET)),
  *(Case("timm", f"efficientnet_lite{n}", QUIET) for n in range(5)),
  Case("timm", "mobilenet_v2", QUIET),
  *(
    Case("timm", f"vit_{name}", dict(image_size=64)) for name in ("ti16", "s16", "b16", "ti32", "s32", "b32")
  ),
  *(Case("timm", name, dict(image_size=64, depth=4)) for name in ("vit_l16", "vit_l32")),
  *(Case("timm", "vit_s16", dict(image_size=64, pooling=pooling)) for pooling in ("mean", "distilled")),
]
HUGGING_FACE = [
  Case("hugging_face", "vit_s16", dict(image_size=64)),
  Case("hugging_face", "vit_b32", dict(image_size=64, activation="gelu_tanh")),
  Case("hugging_face", "vit_ti16", dict(image_size=64, pooling="distilled")),
  *(Case("hugging_face", f"clip_vit_{n}", dict(depth=4, image_size=64)) for n in ("b16", "b32")),
  Case("hugging_face", "clip_vit_l14", dict(depth=2, image_size=56), size=56),
  Case("hugging_face", "clip_text_b", dict(vocabulary=300), size=77),
  Case("hugging_face", "clip_text_l", dict(vocabulary=300, depth=4), size=77),
]
OPEN_CLIP = [
  *(Case("openai", f"clip_vit_{n}", dict(depth=4, image_size=64)) for n in ("b16", "b32")),
  Case("open_clip", "clip_vit_b32", dict(depth=4, image_size=64)),
  Case("openai", "clip_vit_l14", dict(depth=2, image_size=56), size=56),
  Case("openai", "clip_text_b", dict(vocabulary=300), size=77),
  Case("open_clip", "clip_text_l", dict(vocabulary=300, depth=4), size=77),
]
# No library has these; small_networks.py does.
SMALL = [
  *(Case("akamaster", f"resnet{n}", size=32) for n in (8, 20, 32, 44, 56, 110)),
  Case("wide_resnet_pytorch", "wide_resnet28_10", size=32),
]
CASES = [*TORCHVISION, *TIMM, *HUGGING_FACE, *OPEN_CLIP, *SMALL]


def random_weights(shapes: Any, *, seed: int = 0) -> Any:
  """{"params", "batch_stats"} drawn by numpy, of a size that keeps every layer's signal alive."""
  rng = np.random.default_rng(seed)

  def draw(path: str, leaf: Any) -> np.ndarray:
    noise = rng.standard_normal(leaf.shape).astype(np.float32)
    if path.endswith("kernel"):
      fan_in = max(int(np.prod(leaf.shape[:-1])), 1)
      return noise * np.float32(fan_in**-0.5)
    if path.endswith("scale") and not path.endswith("log_scale"):
      return 1 + 0.1 * noise
    if path.endswith("var"):
      return np.exp(0.3 * noise)
    return 0.1 * noise

  return tree.map_with_path(draw, shapes)


def steady(weights: Any) -> Any:
  """The weights with norms that hold every ReLU on or off, whatever comes.

  A ReLU or a maximum that two roundings put on two sides of its kink moves a gradient by a step which no
  tolerance covers, and a deep network has it in nearly every batch. So even channels get a bias of 2, odd
  ones of -2, behind a scale of 0.2. Sums stay above 0, too: what begins a stage is held on, and the branches
  that are added to it are small. Kernels do not see those constants, since they sum to 0 over either half.
  """
  norms = {path.rpartition("/")[0] for path in tree.paths(weights["batch_stats"])}

  def hold(path: str, leaf: np.ndarray) -> np.ndarray:
    module, _, name = path.rpartition("/")
    if name == "kernel" and leaf.ndim == 4 and leaf.shape[2] >= 8:
      means = np.stack([leaf[:, :, half::2].mean(axis=2) for half in (0, 1)], axis=2)
      return leaf - np.tile(means, (1, 1, -(-leaf.shape[2] // 2), 1))[:, :, : leaf.shape[2]]
    if module not in norms:
      return leaf
    block, _, norm = module.rpartition("/")
    last = norm in ("bn2", "bn3") and f"{block}/bn{int(norm[2]) + 1}" not in norms
    ends = last and "norm/bn" not in norms  # a wide network normalises before its convolutions
    added = ends and not block.endswith("_block1")
    if name == "scale":
      return np.full_like(leaf, 0.1 if added else 0.2)
    on = ends or norm == "shortcut_bn" or module == "stem/bn1" or np.arange(len(leaf)) % 2 == 0
    return (np.where(on, 2, -2) * (not added) * np.ones_like(leaf)).astype(np.float32)

  return {**weights, "params": tree.map_with_path(hold, weights["params"])}


def prepared(case: Case, *, train: bool) -> tuple[Any, Any, list[Entry], dict[str, np.ndarray]]:
  """(our model, our weights, entries, the same weights in the layout)."""
  model = case.spec().realize(num_classes=0 if case.model.startswith("clip_vit") else CLASSES)
  shapes = shapes_of(model, (case.size,) if case.text else (case.size, case.size, 3))
  ours = random_weights(shapes)
  if train and re.match(RECTIFIED, case.model):
    ours = steady(ours)
  entries = LAYOUTS[case.layout].entries(model, shapes)
  return model, ours, entries, write(entries, ours)


def inputs_of(case: Case, *, train: bool, seed: int = 1) -> dict[str, np.ndarray]:
  """Random images, one where no statistics are taken; or four texts of different lengths."""
  rng = np.random.default_rng(seed)
  if not case.text:
    # Few pixels for the networks with kinks, see `steady`, whose weights here are plain random ones.
    side = 32 if re.match(RECTIFIED, case.model) and not train else case.size
    return {"images": rng.standard_normal((4 if train else 1, side, side, 3)).astype(np.float32)}
  end = keywords_of(case.spec())["vocabulary"] - 1
  tokens = rng.integers(1, end, (4, case.size)).astype(np.int32)
  for row, last in zip(tokens, (5, 40, case.size - 1, 1)):
    row[last] = end
    row[last + 1 :] = 0
  return {"tokens": tokens}
