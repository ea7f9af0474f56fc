"""Pre-training to the end: eight arms on a tenth of CIFAR-10, which they can fit, and six data sets.

The smoothed hinge exists for pre-training until cross-entropy over-fits: it stops learning from an image once
the image's logit gap exceeds the margin. Nothing is augmented, so that a small network fits every image
within minutes. Every arm chooses a learning rate and one more value in twelve trials; the margin is the
hinge's. A tenth of the images is held out, and decides where the early-stopped arm ends.

Needs --data-dir with cifar10 and the six targets.
"""

from ml_collections import ConfigDict

CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")
# The rates and values of the trials: twelve combinations for every arm.
RATES = (0.03, 0.1, 0.3, 1.0)
EPOCHS, TRIAL_EPOCHS = 24.0, 4.0


def _sheets(folder, split):
  return dict(make=".data.from_sheets", folder=folder, split=split)


def _parquet(path):
  return dict(make=".data.from_parquet", path=path)


def _normalize():
  # CIFAR-10's own statistics: targets are seen as the weights' own images were.
  return dict(fn=".data.normalize", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


def _evaluated(source, batch_size=250):
  # Targets are larger than CIFAR-10's 32 pixels.
  transforms = [dict(fn=".data.resize", size=32), dict(fn=".data.center_crop", size=32), _normalize()]
  return dict(source=source, transforms=transforms, batch_size=batch_size)


def _augmented(source, *, flip=True):
  flips = [dict(fn=".data.flip_left_right")] if flip else []
  crop = dict(fn=".data.random_resized_crop", size=32, scale=(0.5, 1.0))
  return dict(source=source, transforms=[crop, *flips, _normalize()], batch_size=64)


def _targets():
  photographs = {
    name: dict(
      train=_augmented(_parquet(f"{name}/train.parquet")), test=_evaluated(_parquet(f"{name}/test.parquet"))
    )
    for name in ("caltech101_sub", "clothing", "dtd10", "rsscn7_sub")
  }
  sheets = {
    name: dict(train=_augmented(_sheets(name, "train"), flip=flip), test=_evaluated(_sheets(name, "test")))
    # Signs are not mirrored: the mirror image of one is another, or none.
    for name, flip in (("flowers5_32", True), ("gtsrb32", False))
  }
  return {**photographs, **sheets}


def _arm(field, values, rates=RATES, **changes):
  """An arm that tunes `field` besides the rate."""
  return dict(tune=dict(peak_rates=rates, field=field, values=values), **changes)


def get_config():
  tenth = dict(make=".data.subset", source=_sheets("cifar10", "train"), num_examples=5000)
  train, held_out = (
    dict(make=".data.part_of", source=tenth, start=start, stop=stop) for start, stop in ((0, 0.9), (0.9, 1))
  )
  momentum = dict(field="optimizer.momentum", values=(0.8, 0.9, 0.95))
  return ConfigDict(
    dict(
      study=".studies.pretrain.rows",
      title="Pre-training to the end on a tenth of CIFAR-10",
      notes=[
        "Pre-trained on 4,500 of CIFAR-10's training images; 500 more are held out. Tested on its first "
        "1,000 test images, lossless.",
        "Nothing is augmented in pre-training: every arm is to fit its images. Targets are seen at 32 x 32.",
      ],
      seeds=(0, 1, 2),
      base=dict(
        model=dict(make=".models.resnet8", width=16),
        task=dict(make=".tasks.classification", loss=CROSS_ENTROPY),
        data=dict(source=train, transforms=[_normalize()], batch_size=64),
        evaluation=dict(held_out=_evaluated(held_out), test=_evaluated(_sheets("cifar10", "test"))),
        optimizer=dict(
          make=".optim.sgd",
          peak_rate=0.1,
          momentum=0.9,
          schedule=dict(make=".optim.cosine", warmup_epochs=1.0),
          nesterov=True,
        ),
        epochs=EPOCHS,
        evaluate_every=70,
        tune=dict(peak_rates=RATES, epochs=TRIAL_EPOCHS, evaluation="held_out", **momentum),
        flatness=dict(
          data=_evaluated(train), num_examples=500, num_iters=40, tolerance=0.02, training_loss=True
        ),
        outputs=dict(
          train=dict(data=_evaluated(train), num_examples=1000),
          test=dict(data=_evaluated(_sheets("cifar10", "test")), num_examples=1000),
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
