"""Writes references.npz and versions.json anew: what the original libraries give for weights drawn by numpy.

.venv-oracles/bin/python -m tests.pretrained.references.make      (make test-oracles makes that environment)

Only outputs are stored; the test draws the same weights again.
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np

from jaxtl.pretrained import LAYOUTS
from jaxtl.pretrained.verify import run_original
from tests.oracles.cases import CLASSES, QUIET, Case, inputs_of, prepared

FOLDER = Path(__file__).parent
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "open-clip-torch")
_SMALL = dict(width=48, depth=4, num_heads=3, image_size=64)
_CLIP = dict(_SMALL, embed_dim=24)
_TEXT = dict(width=48, depth=4, num_heads=3, embed_dim=24, vocabulary=60)

# One size for each family and each way to write it down.
CASES = [
  Case("torchvision", "resnet18"),
  Case("torchvision", "densenet121"),
  Case("torchvision", "efficientnet_b0", QUIET),
  Case("torchvision", "mobilenet_v2", QUIET),
  Case("torchvision", "vit_b16", _SMALL),
  Case("timm", "efficientnet_b0", QUIET, size=65),
  Case("timm", "efficientnet_lite0", QUIET),
  Case("timm", "vit_s16", _SMALL),
  Case("timm", "vit_s16", dict(_SMALL, pooling="mean")),
  Case("timm", "vit_s16", dict(_SMALL, pooling="distilled")),
  Case("hugging_face", "vit_s16", _SMALL),
  Case("hugging_face", "vit_s16", dict(_SMALL, pooling="distilled")),
  Case("hugging_face", "clip_vit_b16", _CLIP),
  Case("hugging_face", "clip_text_b", _TEXT, size=77),
  Case("openai", "clip_vit_b16", _CLIP),
  Case("openai", "clip_text_b", _TEXT, size=77),
  Case("open_clip", "clip_vit_b16", _CLIP),
]


def modes(case: Case) -> tuple[bool, ...]:
  """Evaluation; and training, where that is another computation."""
  return (False,) if "vit" in case.model or case.text else (False, True)


def main() -> None:
  """Runs every case in its library."""
  outputs = {}
  for case in CASES:
    for train in modes(case):
      _, _, _, tensors = prepared(case, train=train)
      given = inputs_of(case, train=train)
      found = run_original(
        LAYOUTS[case.layout].library, case.spec(), tensors, given, num_classes=CLASSES, train=train
      )
      outputs[f"{case} {'train' if train else 'eval'}"] = found["logits"]
      print(case, train, found["logits"].shape)
  np.savez(FOLDER / "references.npz", **outputs)
  versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
  (FOLDER / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
  main()
