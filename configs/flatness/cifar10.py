"""How flat CIFAR-10 networks are: three of `configs/pretrain/cifar10.py`, and two that others have trained.

Every number is of the same 256 training images; each network sees them normalised as it was trained with.

jaxtl run configs/pretrain/cifar10.py --data-dir DATA --arms cross_entropy,smoothed_hinge,sam --seeds 0 \\
  base.transfer=None arms.from_scratch.transfer=None
jaxtl import DATA/weights/cifar10_resnet20.npz --as resnet20 --layout akamaster \\
  --classes DATA/cifar10/classes.json --out runs/import/cifar_resnet20
jaxtl import DATA/weights/cifar10_resnet8_mlperftiny.npz --as resnet8 --layout mlperf_tiny \\
  --classes DATA/cifar10/classes.json --out runs/import/cifar_resnet8
jaxtl run configs/flatness/cifar10.py --data-dir DATA
"""

from ml_collections import ConfigDict


def get_config():
  source = dict(make=".data.from_sheets", folder="cifar10", split="train")
  return ConfigDict(
    dict(
      study=".studies.flatness.rows",
      title="Flatness of CIFAR-10 networks",
      notes=[
        "The first three arms are the same network, ResNet-8 of width 8, after 4 epochs; the imported ones "
        "are larger and were trained for long. Measures that are not scale-invariant compare only the first "
        "three."
      ],
      seeds=(0,),
      base=dict(
        start="runs/pretrain/cifar10/cross_entropy/0",
        # No transforms: each checkpoint's own.
        flatness=dict(data=dict(source=source, batch_size=128), num_examples=256),
      ),
      arms=ConfigDict(
        dict(
          cross_entropy=dict(),
          smoothed_hinge=dict(start="runs/pretrain/cifar10/smoothed_hinge/0"),
          sam=dict(start="runs/pretrain/cifar10/sam/0"),
          imported_resnet20=dict(start="runs/import/cifar_resnet20"),
          # Inputs of 0 to 255: of eigenvalues up to 900 the products that the others take tell too little.
          imported_resnet8=dict(
            start="runs/import/cifar_resnet8",
            spectrum=dict(num_steps=60),
            layers=dict(effective_steps=40),
          ),
        ),
        sort_keys=False,
      ),
    )
  )
