"""Public ImageNet weights trained further with three losses: does a loss improve a finished weight?

The best row of the smoothed hinge's paper continues torchvision's weights. Here EfficientNet-Lite0 and
MobileNetV2 are trained further, for equal steps, on 100 ImageNet classes that were stored at 64 pixels.
They are transferred to six data sets before and after.

jaxtl import DATA/weights/imagenet_efficientnet_lite0_fp16.npz --as efficientnet_lite0 --layout lukemelas \\
  --out runs/import/efficientnet_lite0
jaxtl import DATA/weights/imagenet_mobilenet_v2_100_224.npz --as mobilenet_v2 --layout tflite \\
  --out runs/import/mobilenet_v2
jaxtl run configs/pretrain/continued.py --data-dir DATA
"""

from ml_collections import ConfigDict

SIZE = 96
CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")
HINGE = dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0)
SMOOTHED = dict(fn=".losses.softmax_cross_entropy", label_smoothing=0.1)
# (x - 127) / 128 and (x - 128) / 128 of bytes, on the scale from 0 to 1.
MEANS = dict(efficientnet_lite0=127 / 255, mobilenet_v2=128 / 255)
STD = 128 / 255


def _parquet(path, **keywords):
  return dict(make=".data.from_parquet", path=path, **keywords)


def _sheets(folder, split):
  return dict(make=".data.from_sheets", folder=folder, split=split)


def _normalize(mean):
  return dict(fn=".data.normalize", mean=(mean,) * 3, std=(STD,) * 3)


def _train(source, mean, *, flip=True, batch_size=64):
  flips = [dict(fn=".data.flip_left_right")] if flip else []
  crop = dict(fn=".data.random_resized_crop", size=SIZE, scale=(0.35, 1.0))
  return dict(source=source, transforms=[crop, *flips, _normalize(mean)], batch_size=batch_size)


def _test(source, mean, batch_size=100):
  transforms = [
    dict(fn=".data.resize", size=SIZE),
    dict(fn=".data.center_crop", size=SIZE),
    _normalize(mean),
  ]
  return dict(source=source, transforms=transforms, batch_size=batch_size)


def _targets(mean):
  coarse = dict(label_column="coarse_label", classes="coarse_classes.json")
  parquet = {
    name: dict(
      train=_train(_parquet(f"{name}/train.parquet", **columns), mean),
      test=_test(_parquet(f"{name}/test.parquet", **columns), mean),
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
    train=_train(_sheets("gtsrb32", "train"), mean, flip=False), test=_test(_sheets("gtsrb32", "test"), mean)
  )
  return {**parquet, "gtsrb32": signs}


def _network(name):
  """The fields that the arms of one network share, as a difference from the base."""
  mean = MEANS[name]
  return dict(
    model=dict(make=f".models.{name}"),
    start=f"runs/import/{name}",
    data=_train(_parquet("tiny_imagenet_100/train.parquet"), mean) | dict(num_examples=8400, num_classes=100),
    evaluation=dict(val=_test(_parquet("tiny_imagenet_100/val.parquet"), mean)),
    flatness=dict(data=_test(_parquet("tiny_imagenet_100/train.parquet"), mean, 50)),
    transfer=dict(targets=_targets(mean)),
  )


def _arms(name):
  """The weight as it is, and after three losses."""
  network = _network(name)
  return {
    f"{name}_as_it_is": dict(network, epochs=0.0, flatness=None),
    f"{name}_cross_entropy": network,
    f"{name}_label_smoothing": dict(network, task=dict(loss=SMOOTHED)),
    f"{name}_smoothed_hinge": dict(network, task=dict(loss=HINGE)),
  }


def get_config():
  return ConfigDict(
    dict(
      study=".studies.pretrain.rows",
      title="Public weights trained on with three losses",
      notes=[
        "Tiny-ImageNet-100 are ImageNet training images at 64 pixels, enlarged to 96: the weights have seen "
        "them. The head is new, since it has 100 classes.",
        "Targets are parts of the sets that they are named after; all images are seen at 96 x 96.",
      ],
      seeds=(0, 1, 2),
      base=dict(
        _network("efficientnet_lite0"),
        task=dict(make=".tasks.classification", loss=CROSS_ENTROPY, frozen_stats=True),
        optimizer=dict(
          make=".optim.sgd",
          peak_rate=0.01,
          schedule=dict(make=".optim.cosine", warmup_epochs=0.1),
          nesterov=True,
        ),
        epochs=2.0,
        evaluate_every=66,
        checkpoint_every=66,
        flatness=dict(
          data=_test(_parquet("tiny_imagenet_100/train.parquet"), MEANS["efficientnet_lite0"], 50),
          num_examples=200,
          num_iters=20,
          tolerance=0.05,
          evaluate_every=10**6,
          training_loss=True,
        ),
        transfer=dict(
          targets=_targets(MEANS["efficientnet_lite0"]),
          linear_probe=dict(),
          few_shot=dict(shots=(1, 5), draws=5),
        ),
      ),
      arms=ConfigDict({**_arms("efficientnet_lite0"), **_arms("mobilenet_v2")}, sort_keys=False),
    )
  )
