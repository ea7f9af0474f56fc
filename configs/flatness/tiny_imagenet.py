"""How flat checkpoints are: lambda_max of the cross-entropy on 400 training images, one arm per checkpoint.

jaxtl run configs/flatness/tiny_imagenet.py --data-dir DATA arms.sam.start=runs/pretrain/tiny_imagenet/sam/0
"""

from ml_collections import ConfigDict


def get_config():
  transforms = [
    dict(fn=".data.resize", size=48),
    dict(fn=".data.center_crop", size=48),
    dict(fn=".data.normalize"),
  ]
  source = dict(make=".data.from_parquet", path="tiny_imagenet_100/train.parquet")
  return ConfigDict(
    dict(
      study=".studies.flatness.rows",
      title="Flatness of checkpoints",
      seeds=(0, 1, 2),  # three draws of the images
      base=dict(
        start="runs/pretrain/tiny_imagenet/cross_entropy/0",
        flatness=dict(data=dict(source=source, transforms=transforms, batch_size=200), num_examples=400),
      ),
      arms=ConfigDict(
        dict(
          cross_entropy=dict(),
          smoothed_hinge=dict(start="runs/pretrain/tiny_imagenet/smoothed_hinge/0"),
          sam=dict(start="runs/pretrain/tiny_imagenet/sam/0"),
        ),
        sort_keys=False,
      ),
    )
  )
