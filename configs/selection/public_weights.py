"""Across architectures: do scores order six public ImageNet weights as their linear probes do?

The imports that the arms start from are those of `configs/backbones/small_images.py`, and:

jaxtl import W/imagenet_efficientnet_lite1_fp16.npz --as efficientnet_lite1 --layout lukemelas \\
    --out runs/import/efficientnet_lite1
jaxtl import W/imagenet_efficientnet_lite2_fp16.npz --as efficientnet_lite2 --layout lukemelas \\
    --out runs/import/efficientnet_lite2
jaxtl run configs/selection/public_weights.py --data-dir DATA

Every network sees the images at its own size and normalisation. The source accuracies are what the authors
state for ImageNet, rounded for the MobileNets.
"""

from ml_collections import ConfigDict

TARGETS = ("caltech101_sub", "clothing", "dtd10", "grocery", "rsscn7_sub")
# ImageNet top-1. EfficientNet-Lite: tensorflow/tpu, models/official/efficientnet/lite/README.md
WEIGHTS = dict(
  mobilenet_v1_025=0.40,
  mobilenet_v1_050=0.57,
  mobilenet_v2=0.71,
  efficientnet_lite0=0.751,
  efficientnet_lite1=0.767,
  efficientnet_lite2=0.776,
)


def _part(name, split):
  return dict(source=dict(make=".data.from_parquet", path=f"{name}/{split}.parquet"), batch_size=64)


def get_config():
  arms = {
    name: dict(start=f"runs/import/{name}", source_accuracy=accuracy) for name, accuracy in WEIGHTS.items()
  }
  return ConfigDict(
    dict(
      study=".studies.selection.rows",
      title="Scores of six public weights against their linear probes on five data sets",
      seeds=(0,),
      base=dict(
        start="runs/import/mobilenet_v2",
        transfer=dict(
          targets={name: dict(train=_part(name, "train"), test=_part(name, "test")) for name in TARGETS},
          linear_probe=dict(),
        ),
      ),
      arms=ConfigDict(arms, sort_keys=False),
    )
  )
