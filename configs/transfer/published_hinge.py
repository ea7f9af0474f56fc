"""The published weights of the smoothed hinge beside torchvision's: ResNet-50, V1, V2 and margin 7.

The files are the user's: torchvision's resnet50-0676ba61.pth (V1) and resnet50-11ad3fa6.pth (V2), and the
authors' resnet50_MCSH_m7.pth (aistairc/multi_class_smoothed_hinge_loss), which has torchvision's names:

  jaxtl import resnet50-0676ba61.pth --as resnet50 --layout torchvision --out runs/import/resnet50_v1
  jaxtl import resnet50-11ad3fa6.pth --as resnet50 --layout torchvision --out runs/import/resnet50_v2
  jaxtl import resnet50_MCSH_m7.pth --as resnet50 --layout torchvision --out runs/import/resnet50_hinge_m7
  jaxtl run configs/transfer/published_hinge.py --data-dir TFDS

Each weight is seen with its own preprocessing. It has not been run here: it needs these files, the data sets
of TFDS and an accelerator.
"""

from ml_collections import ConfigDict

CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")
# TFDS's names and splits of the targets, as in `configs/pretrain/imagenet_resnet50.py`.
TARGETS = dict(
  caltech101=("train", "test"),
  cifar10=("train", "test"),
  cifar100=("train", "test"),
  dtd=("train+validation", "test"),
  oxford_flowers102=("train+validation", "test"),
  oxford_iiit_pet=("train", "test"),
)


def _part(name, split, batch_size):
  return dict(source=dict(make=".data.from_tfds", name=name, split=split), batch_size=batch_size)


def get_config():
  targets = {
    name: dict(train=_part(name, train, 64), test=_part(name, test, 256))
    for name, (train, test) in TARGETS.items()
  }
  return ConfigDict(
    dict(
      study=".studies.transfer.rows",
      title="Published ResNet-50 weights on six data sets",
      seeds=(0, 1, 2),
      base=dict(
        start="runs/import/resnet50_v1",
        transfer=dict(
          targets=targets,
          linear_probe=dict(),
          # The reference code's recipe; see `configs/pretrain/imagenet_resnet50.py`.
          fine_tune=dict(
            task=dict(make=".tasks.classification", loss=CROSS_ENTROPY),
            optimizer=dict(
              make=".optim.adam",
              peak_rate=1e-3,
              weight_decay=2e-5,
              schedule=dict(
                make=".optim.multi_step", boundaries=(0.5, 0.75, 0.9), factor=0.2, warmup_epochs=5.0
              ),
            ),
            epochs=200.0,
            evaluate_every_epochs=10.0,
            keep=0,
          ),
        ),
      ),
      arms=ConfigDict(
        dict(
          torchvision_v1=dict(),
          torchvision_v2=dict(start="runs/import/resnet50_v2"),
          smoothed_hinge_m7=dict(start="runs/import/resnet50_hinge_m7"),
        ),
        sort_keys=False,  # the table's order
      ),
    )
  )
