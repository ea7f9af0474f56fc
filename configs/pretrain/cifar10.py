"""Which loss makes the best weights, on CIFAR-10: the five arms of `tiny_imagenet.py`.

Tested on the 1,000 lossless test images. Needs --data-dir with cifar10 and the targets.
"""

from ml_collections import ConfigDict

CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")


def _sheets(folder, split):
  return dict(make=".data.from_sheets", folder=folder, split=split)


def _normalize():
  # CIFAR-10's own statistics: targets are seen as the weights' own images were.
  return dict(fn=".data.normalize", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


def _train(source, flip=True, batch_size=64):
  flips = [dict(fn=".data.flip_left_right")] if flip else []
  return dict(
    source=source,
    transforms=[dict(fn=".data.pad_crop", size=32, padding=4), *flips, _normalize()],
    batch_size=batch_size,
  )


def _test(source):
  return dict(source=source, transforms=[_normalize()], batch_size=200)


def get_config():
  train = _sheets("cifar10", "train")
  targets = dict(
    flowers5_32=dict(
      train=_train(_sheets("flowers5_32", "train")), test=_test(_sheets("flowers5_32", "test"))
    ),
    gtsrb32=dict(
      train=_train(_sheets("gtsrb32", "train"), flip=False), test=_test(_sheets("gtsrb32", "test"))
    ),
  )
  return ConfigDict(
    dict(
      study=".studies.pretrain.rows",
      title="Five losses on CIFAR-10",
      notes=["All images are photographs. Tested on CIFAR-10's first 1,000 test images, lossless."],
      seeds=(0, 1),
      base=dict(
        model=dict(make=".models.resnet8", width=8),
        task=dict(make=".tasks.classification", loss=CROSS_ENTROPY),
        data=_train(train, batch_size=128) | dict(num_examples=50000, num_classes=10),
        evaluation=dict(test=_test(_sheets("cifar10", "test"))),
        optimizer=dict(
          make=".optim.sgd",
          peak_rate=0.1,
          schedule=dict(make=".optim.cosine", warmup_epochs=0.5),
          nesterov=True,
        ),
        epochs=4.0,
        evaluate_every=391,
        checkpoint_every=782,
        tune=dict(peak_rates=(0.03, 0.1, 0.3, 1.0), epochs=0.5, evaluation="test"),
        flatness=dict(data=_test(train), num_examples=400, num_iters=30, tolerance=0.03),
        transfer=dict(
          targets=targets,
          linear_probe=dict(),
          fine_tune=dict(
            task=dict(make=".tasks.classification", frozen_stats=True, loss=CROSS_ENTROPY),
            optimizer=dict(
              make=".optim.adam",
              peak_rate=1e-3,
              weight_decay=2e-5,
              schedule=dict(make=".optim.cosine", warmup_epochs=1.0),
            ),
            epochs=10.0,
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
