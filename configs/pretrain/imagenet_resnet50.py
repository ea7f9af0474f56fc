"""Which loss makes the best weights: ResNet-50 on ImageNet-1K, as the smoothed hinge's paper compares losses.

Kim et al., "Multi-class Smoothed Hinge Loss Function in Pre-training for Transfer Learning", IEEE ICIP 2025:
cross-entropy, label smoothing, weight decay, the smoothed hinge with margin 7, and SAM. Where each value is
from stands beside it. --data-dir holds `train` and `val` with class folders, or TFDS's imagenet2012. One
global batch for any number of devices; `jaxtl check` tells the memory that each needs:

  jaxtl check configs/pretrain/imagenet_resnet50.py --num-devices 8
  jaxtl run configs/pretrain/imagenet_resnet50.py --data-dir IMAGENET --arms smoothed_hinge --seeds 0

On Ampere and TPU, base.model.dtype=bfloat16 computes in half precision with float32 parameters.
"""

from ml_collections import ConfigDict

SIZE = 224
CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")


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
        model=dict(make=".models.resnet50"),
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
          data=dict(source=train, transforms=test, batch_size=256), num_examples=2048, num_iters=30
        ),
      ),
      arms=ConfigDict(
        dict(
          cross_entropy=dict(),
          # Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016,
          # arXiv 1512.00567.
          label_smoothing=dict(task=dict(loss=dict(fn=".losses.softmax_cross_entropy", label_smoothing=0.1))),
          # Goyal et al. 2017.
          weight_decay=dict(optimizer=dict(weight_decay=1e-4)),
          smoothed_hinge=dict(task=dict(loss=dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0))),
          # Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2021,
          # arXiv 2010.01412. One perturbation for the whole batch; .train.per_device makes one a device.
          sam=dict(gradient=dict(make=".optim.sam", rho=0.05)),
        ),
        sort_keys=False,  # the table's order
      ),
    )
  )
