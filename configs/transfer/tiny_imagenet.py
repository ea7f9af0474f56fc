"""What checkpoints are worth on other data: linear probe and fine-tuning, one arm per checkpoint.

jaxtl run configs/transfer/tiny_imagenet.py --data-dir DATA arms.sam.start=runs/pretrain/tiny_imagenet/sam/0
"""

from ml_collections import ConfigDict


def _data(source, transforms, batch_size):
  return dict(source=source, transforms=[*transforms, dict(fn=".data.normalize")], batch_size=batch_size)


def get_config():
  augmented = [
    dict(fn=".data.random_resized_crop", size=48, scale=(0.35, 1.0)),
    dict(fn=".data.flip_left_right"),
  ]
  plain = [dict(fn=".data.resize", size=48), dict(fn=".data.center_crop", size=48)]
  targets = {
    name: dict(
      train=_data(dict(make=".data.from_parquet", path=f"{name}/train.parquet"), augmented, 64),
      test=_data(dict(make=".data.from_parquet", path=f"{name}/test.parquet"), plain, 200),
    )
    for name in ("dtd10", "rsscn7_sub")
  }
  return ConfigDict(
    dict(
      study=".studies.transfer.rows",
      title="Transfer of checkpoints",
      seeds=(0, 1),
      base=dict(
        start="runs/pretrain/tiny_imagenet/cross_entropy/0",
        transfer=dict(
          targets=targets,
          linear_probe=dict(),
          fine_tune=dict(
            task=dict(
              make=".tasks.classification", frozen_stats=True, loss=dict(fn=".losses.softmax_cross_entropy")
            ),
            optimizer=dict(make=".optim.adam", peak_rate=1e-3, weight_decay=2e-5),
            epochs=20.0,
            evaluate_every_epochs=5.0,
          ),
        ),
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
