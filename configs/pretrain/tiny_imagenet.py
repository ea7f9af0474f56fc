"""Which loss makes the best weights: five losses on 100 ImageNet classes, transferred to six data sets.

The protocol of Kim et al., "Multi-class Smoothed Hinge Loss Function in Pre-training for Transfer Learning",
IEEE ICIP 2025, at the scale of two CPU cores. Needs --data-dir with tiny_imagenet_100 and the six targets.
The learning rate of each arm is chosen among the same four, on a tenth of the training set that no trial
sees.
"""

from ml_collections import ConfigDict

SIZE = 48
CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")


def _parquet(path, **keywords):
  return dict(make=".data.from_parquet", path=path, **keywords)


def _sheets(folder, split):
  return dict(make=".data.from_sheets", folder=folder, split=split)


def _train(source, transforms=None, batch_size=64):
  if transforms is None:
    transforms = [
      dict(fn=".data.random_resized_crop", size=SIZE, scale=(0.35, 1.0)),
      dict(fn=".data.flip_left_right"),
      dict(fn=".data.normalize"),
    ]
  return dict(source=source, transforms=transforms, batch_size=batch_size)


def _test(source, batch_size=200):
  transforms = [
    dict(fn=".data.resize", size=SIZE),
    dict(fn=".data.center_crop", size=SIZE),
    dict(fn=".data.normalize"),
  ]
  return dict(source=source, transforms=transforms, batch_size=batch_size)


def _targets():
  # Signs are not mirrored: the mirror image of one is another, or none.
  signs = [
    dict(fn=".data.resize", size=SIZE),
    dict(fn=".data.pad_crop", size=SIZE, padding=4),
    dict(fn=".data.normalize"),
  ]
  coarse = dict(label_column="coarse_label", classes="coarse_classes.json")
  return dict(
    caltech101_sub=dict(
      train=_train(_parquet("caltech101_sub/train.parquet")),
      test=_test(_parquet("caltech101_sub/test.parquet")),
    ),
    grocery=dict(
      train=_train(_parquet("grocery/train.parquet", **coarse)),
      test=_test(_parquet("grocery/test.parquet", **coarse)),
    ),
    clothing=dict(
      train=_train(_parquet("clothing/train.parquet")), test=_test(_parquet("clothing/test.parquet"))
    ),
    dtd10=dict(train=_train(_parquet("dtd10/train.parquet")), test=_test(_parquet("dtd10/test.parquet"))),
    rsscn7_sub=dict(
      train=_train(_parquet("rsscn7_sub/train.parquet")), test=_test(_parquet("rsscn7_sub/test.parquet"))
    ),
    gtsrb32=dict(train=_train(_sheets("gtsrb32", "train"), signs), test=_test(_sheets("gtsrb32", "test"))),
  )


def get_config():
  train = _parquet("tiny_imagenet_100/train.parquet")
  return ConfigDict(
    dict(
      study=".studies.pretrain.rows",
      title="Five losses on 100 ImageNet classes, transferred to six data sets",
      notes=[
        "All images are photographs. Pre-training: 8,400 images of 100 classes, a part of Tiny ImageNet.",
        "Targets are parts of the sets that they are named after; all images are seen at 48 x 48.",
      ],
      seeds=(0, 1),
      base=dict(
        model=dict(make=".models.resnet18", width=16),
        task=dict(make=".tasks.classification", loss=CROSS_ENTROPY),
        data=_train(train, batch_size=128) | dict(num_examples=8400, num_classes=100),
        evaluation=dict(val=_test(_parquet("tiny_imagenet_100/val.parquet"))),
        optimizer=dict(
          make=".optim.sgd",
          peak_rate=0.1,
          schedule=dict(make=".optim.cosine", warmup_epochs=1.0),
          nesterov=True,
        ),
        epochs=20.0,
        evaluate_every=262,
        checkpoint_every=656,
        tune=dict(peak_rates=(0.03, 0.1, 0.3, 1.0), epochs=3.0, evaluation="val"),
        flatness=dict(data=_test(train), num_examples=400, num_iters=30, tolerance=0.03),
        transfer=dict(
          targets=_targets(),
          linear_probe=dict(),
          fine_tune=dict(
            task=dict(make=".tasks.classification", frozen_stats=True, loss=CROSS_ENTROPY),
            # Adam with an L2 penalty of 2e-5, as the loss's reference code transfers; 6 epochs, not 200.
            optimizer=dict(
              make=".optim.adam",
              peak_rate=1e-3,
              weight_decay=2e-5,
              schedule=dict(make=".optim.cosine", warmup_epochs=1.0),
            ),
            epochs=6.0,
            evaluate_every_epochs=2.0,
          ),
        ),
      ),
      arms=ConfigDict(
        dict(
          cross_entropy=dict(),
          label_smoothing=dict(task=dict(loss=dict(fn=".losses.softmax_cross_entropy", label_smoothing=0.1))),
          weight_decay=dict(optimizer=dict(weight_decay=5e-4)),
          smoothed_hinge=dict(task=dict(loss=dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0))),
          sam=dict(gradient=dict(make=".optim.sam", rho=0.05)),
          # The control has no statistics to freeze.
          from_scratch=dict(
            epochs=0.0,
            tune=None,
            flatness=None,
            transfer=dict(fine_tune=dict(task=dict(frozen_stats=False))),
          ),
        ),
        sort_keys=False,  # the table's order
      ),
    )
  )
