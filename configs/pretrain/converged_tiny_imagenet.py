"""Pre-training to the end: eight arms on 100 ImageNet classes at 48 pixels, and six data sets.

The smoothed hinge exists for pre-training until cross-entropy over-fits: it stops learning from an image once
the image's logit gap exceeds the margin. Nothing is augmented, so that a small network fits every image
within minutes. Every arm chooses a learning rate and one more value in twelve trials; the margin is the
hinge's. A tenth of the images is held out, and decides where the early-stopped arm ends.

It is the longer sibling of `converged_cifar10.py`, and has not been run yet.
Needs --data-dir with tiny_imagenet_100 and the six targets.
"""

from ml_collections import ConfigDict

CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")
# The rates and values of the trials: twelve combinations for every arm.
RATES = (0.03, 0.1, 0.3, 1.0)
SIZE, EPOCHS, TRIAL_EPOCHS = 48, 40.0, 6.0


def _sheets(folder, split):
  return dict(make=".data.from_sheets", folder=folder, split=split)


def _parquet(path, **keywords):
  return dict(make=".data.from_parquet", path=path, **keywords)


def _resized():
  return [
    dict(fn=".data.resize", size=SIZE),
    dict(fn=".data.center_crop", size=SIZE),
    dict(fn=".data.normalize"),
  ]


def _evaluated(source, batch_size=250):
  return dict(source=source, transforms=_resized(), batch_size=batch_size)


def _augmented(source, *, flip=True):
  flips = [dict(fn=".data.flip_left_right")] if flip else []
  crop = dict(fn=".data.random_resized_crop", size=SIZE, scale=(0.5, 1.0))
  return dict(source=source, transforms=[crop, *flips, dict(fn=".data.normalize")], batch_size=64)


def _targets():
  coarse = dict(label_column="coarse_label", classes="coarse_classes.json")
  photographs = {
    name: dict(
      train=_augmented(_parquet(f"{name}/train.parquet", **columns)),
      test=_evaluated(_parquet(f"{name}/test.parquet", **columns)),
    )
    for name, columns in (
      ("caltech101_sub", {}),
      ("clothing", {}),
      ("dtd10", {}),
      ("grocery", coarse),
      ("rsscn7_sub", {}),
    )
  }
  # Signs are not mirrored: the mirror image of one is another, or none.
  signs = dict(
    train=_augmented(_sheets("gtsrb32", "train"), flip=False), test=_evaluated(_sheets("gtsrb32", "test"))
  )
  return {**photographs, "gtsrb32": signs}


def _arm(field, values, rates=RATES, **changes):
  """An arm that tunes `field` besides the rate."""
  return dict(tune=dict(peak_rates=rates, field=field, values=values), **changes)


def get_config():
  every = _parquet("tiny_imagenet_100/train.parquet")
  train, held_out = (
    dict(make=".data.part_of", source=every, start=start, stop=stop) for start, stop in ((0, 0.9), (0.9, 1))
  )
  val = _parquet("tiny_imagenet_100/val.parquet")
  momentum = dict(field="optimizer.momentum", values=(0.8, 0.9, 0.95))
  return ConfigDict(
    dict(
      study=".studies.pretrain.rows",
      title="Pre-training to the end on 100 ImageNet classes",
      notes=[
        "Pre-trained on 7,560 of the 8,400 images of 100 classes, a part of Tiny ImageNet; 840 are held out.",
        "Nothing is augmented in pre-training: every arm is to fit its images. All are seen at 48 x 48.",
      ],
      seeds=(0, 1, 2),
      base=dict(
        model=dict(make=".models.resnet18", width=16),
        task=dict(make=".tasks.classification", loss=CROSS_ENTROPY),
        data=dict(source=train, transforms=_resized(), batch_size=64),
        evaluation=dict(held_out=_evaluated(held_out), test=_evaluated(val)),
        optimizer=dict(
          make=".optim.sgd",
          peak_rate=0.1,
          momentum=0.9,
          schedule=dict(make=".optim.cosine", warmup_epochs=1.0),
          nesterov=True,
        ),
        epochs=EPOCHS,
        evaluate_every=118,
        tune=dict(peak_rates=RATES, epochs=TRIAL_EPOCHS, evaluation="held_out", **momentum),
        flatness=dict(
          data=_evaluated(train), num_examples=500, num_iters=40, tolerance=0.02, training_loss=True
        ),
        outputs=dict(
          train=dict(data=_evaluated(train), num_examples=1000),
          test=dict(data=_evaluated(val), num_examples=1000),
        ),
        transfer=dict(
          targets=_targets(),
          linear_probe=dict(),
          few_shot=dict(shots=(1, 5, 10), draws=5),
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
            keep=0,
          ),
        ),
      ),
      arms=ConfigDict(
        dict(
          cross_entropy=dict(),
          early_stopped=dict(select=dict(evaluation="held_out", patience=10)),
          label_smoothing=_arm(
            "task.loss.label_smoothing",
            (0.05, 0.1, 0.2),
            task=dict(loss=dict(fn=".losses.softmax_cross_entropy", label_smoothing=0.1)),
          ),
          weight_decay=_arm("optimizer.weight_decay", (1e-4, 5e-4, 2e-3), optimizer=dict(weight_decay=5e-4)),
          sam=_arm("gradient.rho", (0.02, 0.05, 0.1), gradient=dict(make=".optim.sam", rho=0.05)),
          # Two rates and six margins: the loss needs lower rates, and the margin is what it is about.
          smoothed_hinge=_arm(
            "task.loss.margin",
            (0.5, 1.0, 2.0, 4.0, 7.0, 14.0),
            (0.03, 0.1),
            task=dict(loss=dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0)),
          ),
          logit_penalty=_arm(
            "task.loss.penalty",
            (6e-4, 6e-3, 6e-2),
            task=dict(loss=dict(fn=".losses.logit_penalty", penalty=6e-4)),
          ),
          temperature=_arm(
            "task.loss.temperature",
            (0.5, 2.0, 5.0),
            task=dict(loss=dict(fn=".losses.cosine_softmax", temperature=2.0)),
          ),
          # The control has no statistics to freeze.
          from_scratch=dict(
            epochs=0.0,
            tune=None,
            flatness=None,
            outputs=None,
            transfer=dict(fine_tune=dict(task=dict(frozen_stats=False))),
          ),
        ),
        sort_keys=False,  # the table's order
      ),
    )
  )
