"""Four ImageNet networks on four sets of photographs: what their pooled features are worth.

The imports that the arms start from; W is a folder with the weights:

jaxtl import W/imagenet_mobilenet_v1_025_128.npz --as mobilenet_v1 --layout tflite width_factor=0.25 \\
    --image-size 128 --out runs/import/mobilenet_v1_025
jaxtl import W/imagenet_mobilenet_v1_050_160.npz --as mobilenet_v1 --layout tflite width_factor=0.5 \\
    --image-size 160 --out runs/import/mobilenet_v1_050
jaxtl import W/imagenet_mobilenet_v2_100_224.npz --as mobilenet_v2 --layout tflite \\
    --out runs/import/mobilenet_v2
jaxtl import W/imagenet_efficientnet_lite0_fp16.npz --as efficientnet_lite0 --layout lukemelas \\
    --out runs/import/efficientnet_lite0

Every network sees the images at the size and in the normalisation that it was trained with.
"""

from ml_collections import ConfigDict

TARGETS = ("clothing", "dtd10", "grocery", "rsscn7_sub")
# (side of the images, the value that becomes 0, the value that becomes 1 above it), on the scale to 255
BACKBONES = dict(
  mobilenet_v1_025=(128, 128, 128),
  mobilenet_v1_050=(160, 128, 128),
  mobilenet_v2=(224, 128, 128),
  efficientnet_lite0=(224, 127, 128),
)


def _targets(size, mean, std):
  transforms = [
    dict(fn=".data.resize", size=(size, size)),
    dict(fn=".data.normalize", mean=[mean / 255] * 3, std=[std / 255] * 3),
  ]

  def part(name, split):
    source = dict(make=".data.from_parquet", path=f"{name}/{split}.parquet")
    return dict(source=source, transforms=transforms, batch_size=64)

  return {name: dict(train=part(name, "train"), test=part(name, "test")) for name in TARGETS}


def get_config():
  arms = {
    name: dict(start=f"runs/import/{name}", transfer=dict(targets=_targets(*numbers)))
    for name, numbers in BACKBONES.items()
  }
  return ConfigDict(
    dict(
      study=".studies.transfer.rows",
      title="Four ImageNet networks on four sets of photographs",
      seeds=(0,),
      base=dict(
        start="runs/import/mobilenet_v2",
        transfer=dict(targets=_targets(*BACKBONES["mobilenet_v2"]), linear_probe=dict()),
      ),
      arms=ConfigDict(arms, sort_keys=False),
    )
  )
