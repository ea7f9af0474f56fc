"""The other side of `benchmarks/models.py`: the same models in torch, run one call at a time on demand.

  PYTHON torch_models.py FOLDER

It imports nothing of jaxtl. FOLDER has `job.json` ({"model", "classes", "threads"}), `weights.npz` in the
names of the library that the model comes from, and `batch.npz` (`image` [B, H, W, 3], `label` [B]). The first
line written is "ready", when `logits.npy` is there: those of evaluation. From then on each line read, such as
"step channels_last", is one run, answered by its seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LAYOUTS = {"eager": torch.contiguous_format, "channels_last": torch.channels_last}


class CifarBlock(nn.Module):
  """Two 3x3 convolutions; a change of shape takes every second pixel and adds zeros (option A)."""

  def __init__(self, inputs: int, width: int) -> None:
    super().__init__()
    self.stride, self.missing = (1, 0) if inputs == width else (2, width - inputs)
    self.conv1 = nn.Conv2d(inputs, width, 3, self.stride, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)

  def forward(self, x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, width, h, w]."""
    y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
    if self.missing:
      x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.missing // 2, self.missing // 2))
    return functional.relu(x + y)


class CifarResNet(nn.Module):
  """ResNet-20 with the names of github.com/akamaster/pytorch_resnet_cifar10."""

  def __init__(self, classes: int) -> None:
    super().__init__()
    self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(16)
    for stage, (inputs, width) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
      blocks = [CifarBlock(inputs if number == 0 else width, width) for number in range(3)]
      setattr(self, f"layer{stage}", nn.Sequential(*blocks))
    self.linear = nn.Linear(64, classes)

  def forward(self, x: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, K]."""
    x = functional.relu(self.bn1(self.conv1(x)))
    return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def built(name: str, classes: int, *, size: int = 224, twice: bool = False) -> nn.Module:
  """The model as its library builds it, with weights of its own.

  Args:
    name: ours.
    classes: of the classifier.
    size: of the images, where the model depends on it.
    twice: to be differentiated twice, which torch's fused attention cannot be on the CPU.
  """
  if name == "resnet20":
    return CifarResNet(classes)
  if name.startswith("vit"):
    import timm

    timm.layers.set_fused_attn(not twice)
    sizes = {
      "vit_ti16": dict(embed_dim=192, num_heads=3),
      "vit_s16": dict(embed_dim=384, num_heads=6),
      "vit_b16": dict(embed_dim=768, num_heads=12),
    }
    shape = dict(img_size=size, patch_size=16, depth=12, num_classes=classes)
    return timm.models.VisionTransformer(**shape, **sizes[name])
  import torchvision

  return getattr(torchvision.models, name)(num_classes=classes)


def runs(model: nn.Module, image: Tensor, label: Tensor) -> dict[str, Callable[[], Tensor]]:
  """{"eval", "step"}: one evaluation, and one step of SGD with momentum."""
  optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

  def evaluate() -> Tensor:
    model.eval()
    with torch.inference_mode():
      return model(image)

  def step() -> Tensor:
    model.train()
    optimizer.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(model(image), label)
    loss.backward()
    optimizer.step()
    return loss

  return {"eval": evaluate, "step": step}


def main(folder: Path) -> None:
  """Builds the model in both layouts and answers until its input ends."""
  job = json.loads((folder / "job.json").read_text())
  torch.set_num_threads(job["threads"])
  clock = time.process_time if job["threads"] == 1 else time.perf_counter
  with np.load(folder / "weights.npz") as stored:
    weights = {key: torch.from_numpy(stored[key]) for key in stored.files}
  with np.load(folder / "batch.npz") as stored:
    image, label = (torch.from_numpy(stored[key]) for key in ("image", "label"))
  calls = {}
  for layout, memory_format in LAYOUTS.items():
    model = built(job["model"], job["classes"])
    found = model.load_state_dict(weights, strict=False)
    missing = [key for key in found.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or found.unexpected_keys:
      raise SystemExit(f"the original differs in {[*missing, *found.unexpected_keys][0]}")
    images = image.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    calls[layout] = runs(model.to(memory_format=memory_format), images, label)
  np.save(folder / "logits.npy", calls["eager"]["eval"]().numpy())
  print("ready", flush=True)
  for line in sys.stdin:
    kind, layout = line.split()
    began = clock()
    calls[layout][kind]()
    print(clock() - began, flush=True)


if __name__ == "__main__":
  main(Path(sys.argv[1]))
