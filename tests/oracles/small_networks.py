"""A script: the CIFAR ResNets and WideResNet in plain torch, from the papers, with their repositories' names.

python -P small_networks.py JOB.json, with the job of jaxtl/pretrained/run_original.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional


class Basic(nn.Module):
  def __init__(self, before, after, stride):
    super().__init__()
    self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(after)
    self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(after)
    self.stride, self.more = stride, after - before

  def forward(self, x):
    y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
    kept = functional.pad(
      x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2)
    )
    return torch.relu(y + kept)


class CifarResNet(nn.Module):
  def __init__(self, depth, classes):
    super().__init__()
    blocks = (depth - 2) // 6
    self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
    width = 16
    for stage in (1, 2, 3):
      parts = []
      for number in range(blocks):
        after = 16 * 2 ** (stage - 1)
        parts.append(Basic(width, after, 2 if stage > 1 and number == 0 else 1))
        width = after
      setattr(self, f"layer{stage}", nn.Sequential(*parts))
    self.linear = nn.Linear(64, classes)

  def forward(self, x):
    x = torch.relu(self.bn1(self.conv1(x)))
    x = self.layer3(self.layer2(self.layer1(x)))
    return self.linear(x.mean((2, 3)))


class Wide(nn.Module):
  def __init__(self, before, after, stride):
    super().__init__()
    self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
    self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
    self.convShortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None

  def forward(self, x):
    y = torch.relu(self.bn1(x))
    kept = self.convShortcut(y) if self.convShortcut is not None else x
    return kept + self.conv2(torch.relu(self.bn2(self.conv1(y))))


class Stage(nn.Module):
  def __init__(self, before, after, stride, blocks):
    super().__init__()
    parts = [Wide(before if n == 0 else after, after, stride if n == 0 else 1) for n in range(blocks)]
    self.layer = nn.Sequential(*parts)

  def forward(self, x):
    return self.layer(x)


class WideResNet(nn.Module):
  def __init__(self, depth, factor, classes):
    super().__init__()
    blocks = (depth - 4) // 6
    self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
    self.block1 = Stage(16, 16 * factor, 1, blocks)
    self.block2 = Stage(16 * factor, 32 * factor, 2, blocks)
    self.block3 = Stage(32 * factor, 64 * factor, 2, blocks)
    self.bn1, self.fc = nn.BatchNorm2d(64 * factor), nn.Linear(64 * factor, classes)

  def forward(self, x):
    x = self.block3(self.block2(self.block1(self.conv1(x))))
    return self.fc(torch.relu(self.bn1(x)).mean((2, 3)))


def main(job):
  k = job["keywords"]
  if job["model"].startswith("wide"):
    model = WideResNet(k["depth"], k["width"], job["num_classes"])
  else:
    model = CifarResNet(int(job["model"].removeprefix("resnet")), job["num_classes"])
  weights = load_file(job["weights"])
  missing, extra = model.load_state_dict(weights, strict=False)
  assert not extra, extra
  assert all(key.endswith("num_batches_tracked") for key in missing), missing
  model.train(job["train"])
  seen = {}

  def keep(name):
    return lambda module, inputs, output: seen.update({f"module/{name}": output})

  for name, path in job["modules"].items():
    model.get_submodule(path).register_forward_hook(keep(name))
  images = torch.from_numpy(np.load(job["inputs"])["images"]).permute(0, 3, 1, 2).contiguous()
  out = model(images)
  functional.cross_entropy(out, torch.arange(len(out)) % out.shape[1]).backward()
  found = {"logits": out, **seen}
  found |= {f"gradient/{key}": model.get_parameter(key).grad for key in job["gradients"]}
  if job["train"]:
    found |= {f"after/{key}": value for key, value in model.state_dict().items() if "running_" in key}
  np.savez(job["out"], **{key: value.detach().numpy() for key, value in found.items()})


if __name__ == "__main__":
  main(json.loads(Path(sys.argv[1]).read_text()))
