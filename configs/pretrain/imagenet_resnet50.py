"""Which loss makes the best weights: ResNet-50 on ImageNet-1K, as the smoothed hinge's paper compares losses.

Kim et al., "Multi-class Smoothed Hinge Loss Function in Pre-training for Transfer Learning", IEEE ICIP 2025:
cross-entropy, label smoothing, weight decay, the smoothed hinge with margin 7, and SAM. Where each value is
from stands beside it. --data-dir holds `train` and `val` with class folders, or TFDS's imagenet2012. One
global batch for any number of devices; `jaxtl check` tells the memory that each needs:

  jaxtl check configs/pretrain/imagenet_resnet50.py --num-devices 8
  jaxtl run configs/pretrain/imagenet_resnet50.py --data-dir IMAGENET --arms smoothed_hinge --seeds 0

It computes in bfloat16 with float32 parameters. Each weight is transferred to six data sets of TFDS with the
recipe of the loss's reference code. The last arm continues torchvision's V2 weights:

  jaxtl import resnet50-11ad3fa6.pth --as resnet50 --layout torchvision --out runs/import/resnet50_v2
"""

from ml_collections import ConfigDict

SIZE = 224
CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")
HINGE = dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0)
# TFDS's names and splits of the targets. The paper does not name its six; these are customary ones.
TARGETS = dict(
  caltech101=("train", "test"),
  cifar10=("train", "test"),
  cifar100=("train", "test"),
  dtd=("train+validation", "test"),
  oxford_flowers102=("train+validation", "test"),
  oxford_iiit_pet=("train", "test"),
)


def _transfer():
  resize = dict(fn=".data.resize", size=(SIZE, SIZE))
  # The reference code's augmentation: a crop after padding, a flip, a rotation within 15 degrees.
  augmented = [
    resize,
    dict(fn=".data.pad_crop", size=SIZE, padding=28),
    dict(fn=".data.flip_left_right"),
    dict(fn=".data.rotate", degrees=15.0),
    dict(fn=".data.normalize"),
  ]

  def part(name, split, transforms, batch_size):
    source = dict(make=".data.from_tfds", name=name, split=split)
    return dict(source=source, transforms=transforms, batch_size=batch_size)

  targets = {
    name: dict(
      train=part(name, train, augmented, 64),
      test=part(name, test, [resize, dict(fn=".data.normalize")], 256),
    )
    for name, (train, test) in TARGETS.items()
  }
  return dict(
    targets=targets,
    linear_probe=dict(),
    # Adam at 1e-3 with an L2 penalty of 2e-5, 200 epochs, five of warm-up, a fifth of the rate at 100, 150
    # and 180: the reference code, aistairc/multi_class_smoothed_hinge_loss.
    fine_tune=dict(
      task=dict(make=".tasks.classification", loss=CROSS_ENTROPY),
      optimizer=dict(
        make=".optim.adam",
        peak_rate=1e-3,
        weight_decay=2e-5,
        schedule=dict(make=".optim.multi_step", boundaries=(0.5, 0.75, 0.9), factor=0.2, warmup_epochs=5.0),
      ),
      epochs=200.0,
      evaluate_every_epochs=10.0,
      keep=0,
    ),
  )


def get_config():
  train = dict(make=".data.imagenet", split="train")
  test = [
    dict(fn=".data.resize", size=256),
    dict(fn=".data.center_crop", size=SIZE),
    dict(fn=".data.normalize"),
  ]
  return ConfigDict(
    dict(
      study=".studies.pretrain.rows",
      title="Five losses on ImageNet-1K, ResNet-50",
      notes=[
        "The recipe of Goyal et al. 2017 with a cosine, one loss after the other in the place of the first."
      ],
      seeds=(0, 1, 2),
      base=dict(
        model=dict(make=".models.resnet50", dtype="bfloat16"),
        task=dict(make=".tasks.classification", loss=CROSS_ENTROPY),
        data=dict(
          source=train,
          # Szegedy et al., "Going Deeper with Convolutions", 2015, arXiv 1409.4842: 8 % to all of the area.
          transforms=[
            dict(fn=".data.random_resized_crop", size=SIZE),
            dict(fn=".data.flip_left_right"),
            dict(fn=".data.normalize"),
          ],
          batch_size=1024,
          max_bad_records=20,
          num_examples=1281167,
          num_classes=1000,
        ),
        evaluation=dict(
          val=dict(
            source=dict(make=".data.imagenet", split="val"),
            transforms=test,
            batch_size=1024,
            num_examples=50000,
            num_classes=1000,
          )
        ),
        # Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, arXiv 1706.02677:
        # 0.1 for each 256 images of the batch, five epochs of warm-up, 90 epochs, momentum 0.9 (Nesterov).
        # Half a cosine in the place of their three steps: He et al., "Bag of Tricks for Image Classification
        # with Convolutional Neural Networks", 2019, arXiv 1812.01187.
        optimizer=dict(
          make=".optim.sgd",
          peak_rate=0.4,
          schedule=dict(make=".optim.cosine", warmup_epochs=5.0),
          nesterov=True,
        ),
        epochs=90.0,
        log_every=100,
        evaluate_every=6255,  # 5 epochs
        checkpoint_every=1251,  # an epoch
        flatness=dict(
          data=dict(source=train, transforms=test, batch_size=256),
          num_examples=2048,
          num_iters=30,
          training_loss=True,
        ),
        transfer=_transfer(),
      ),
      arms=ConfigDict(
        dict(
          cross_entropy=dict(),
          # Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016,
          # arXiv 1512.00567.
          label_smoothing=dict(task=dict(loss=dict(fn=".losses.softmax_cross_entropy", label_smoothing=0.1))),
          # Goyal et al. 2017.
          weight_decay=dict(optimizer=dict(weight_decay=1e-4)),
          # With 1,000 classes its slope reaches sqrt(a (K - 1)) = 17, that of cross-entropy 1: a lower rate.
          # Choose it, and the margin, by short runs.
          smoothed_hinge=dict(task=dict(loss=HINGE), optimizer=dict(peak_rate=0.1)),
          # Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2021,
          # arXiv 2010.01412. One perturbation for the whole batch; .train.per_device makes one a device.
          sam=dict(gradient=dict(make=".optim.sam", rho=0.05)),
          # The paper's best row continues torchvision's V2 weights; it does not say for how long.
          v2_smoothed_hinge=dict(
            start="runs/import/resnet50_v2",
            epochs=10.0,
            task=dict(loss=HINGE),
            optimizer=dict(peak_rate=0.01, schedule=dict(warmup_epochs=0.5)),
          ),
          v2_cross_entropy=dict(
            start="runs/import/resnet50_v2",
            epochs=10.0,
            optimizer=dict(peak_rate=0.01, schedule=dict(warmup_epochs=0.5)),
          ),
          v2_as_it_is=dict(start="runs/import/resnet50_v2", epochs=0.0, flatness=None),
        ),
        sort_keys=False,  # the table's order
      ),
    )
  )
