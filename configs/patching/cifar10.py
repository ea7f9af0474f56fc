"""A CIFAR-10 network patched to other data: three supported and four patching tasks, coefficients optimised.

The backbone is a ResNet-20 that others have trained on CIFAR-10, at 32 pixels. CIFAR-10 keeps the network's
own head; every other task has a linear probe on the untouched backbone. Heads stay frozen.

jaxtl import DATA/weights/cifar10_resnet20.npz --as resnet20 --layout akamaster \\
  --classes DATA/cifar10/classes.json --out runs/import/cifar_resnet20
jaxtl run configs/patching/cifar10.py --data-dir DATA
"""

from ml_collections import ConfigDict

# What the network was trained with.
NORMALIZE = dict(fn=".data.normalize", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
RESIZE = [dict(fn=".data.resize", size=32), dict(fn=".data.center_crop", size=32)]

AVERAGES = ("uniform_soup", "greedy_soup", "task_arithmetic", "ties", "dare", "fisher")


def _task(train, test, *, flip=True, head=None, limit=None):
  """A tenth of the training images, at most a thousand, chooses the coefficient."""
  augmented = [dict(fn=".data.random_resized_crop", size=32, scale=(0.9, 1.0))]
  augmented += [dict(fn=".data.flip_left_right")] if flip else []
  part = dict(make=".data.part_of", source=train, start=0.9)
  rest = dict(make=".data.part_of", source=train, stop=0.9)
  if limit:
    part, rest = (dict(make=".data.subset", source=one, num_examples=limit) for one in (part, rest))
  return dict(
    train=dict(source=rest, transforms=[*augmented, NORMALIZE], batch_size=64),
    validation=dict(source=part, transforms=[*RESIZE, NORMALIZE], batch_size=250),
    test=dict(source=test, transforms=[*RESIZE, NORMALIZE], batch_size=250),
    **(dict(head=head) if head else {}),
  )


def _parquet(name, **keywords):
  train, test = (
    dict(make=".data.from_parquet", path=f"{name}/{split}.parquet") for split in ("train", "test")
  )
  return _task(train, test, **keywords)


def _sheets(name, **keywords):
  train, test = (dict(make=".data.from_sheets", folder=name, split=split) for split in ("train", "test"))
  return _task(train, test, **keywords)


def get_config():
  mnist = [
    dict(make=".data.from_npz", path="mnist/mnist_12k_2k.npz", split=split) for split in ("train", "test")
  ]
  return ConfigDict(
    dict(
      study=".studies.patching.rows",
      title="Patching a CIFAR-10 network",
      seeds=(0,),
      base=dict(
        start="runs/import/cifar_resnet20",
        supported=dict(
          cifar10=_sheets("cifar10", head=dict(fn=".studies.patching.own"), limit=1000),
          clothing=_parquet("clothing"),
          flowers5=_sheets("flowers5_32"),
        ),
        patching=dict(
          gtsrb=_sheets("gtsrb32", flip=False),
          mnist=_task(*mnist, flip=False, limit=1000),
          dtd10=_parquet("dtd10"),
          rsscn7=_parquet("rsscn7_sub"),
        ),
        fine_tune=dict(
          task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
          optimizer=dict(make=".optim.adam", peak_rate=1e-3, clip_norm=1.0),
          epochs=10.0,
        ),
      ),
      arms=ConfigDict(
        dict(
          loss_ratio=dict(merging=dict(max_sweeps=1)),
          by_classes=dict(normalise="log_classes"),
          # Of the ways to merge, those that fine-tune nothing more.
          new_statistics=dict(statistics_batches=8, merging=dict(methods=AVERAGES)),
        ),
        sort_keys=False,
      ),
    )
  )
