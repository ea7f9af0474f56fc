"""Which loss makes the best weights: ViT-B/16 on ImageNet-1K from scratch, as in imagenet_resnet50.py.

The recipe is Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, arXiv 2010.11929, as trained without
other data by Chen, Hsieh, Gong, "When Vision Transformers Outperform ResNets without Pre-training or Strong
Data Augmentations", 2022, arXiv 2106.01548: batch 4096, AdamW at 3e-3, 10,000 steps of warm-up, a cosine, the
gradient's norm clipped at 1, 300 epochs, no augmentation but crops and flips.

  jaxtl check configs/pretrain/imagenet_vit_b16.py --num-devices 64 --compile none
  jaxtl run configs/pretrain/imagenet_vit_b16.py --data-dir IMAGENET --arms sam --seeds 0

A small host takes base.gradient in parts, which changes nothing but memory:
base.gradient.make=.optim.accumulate base.gradient.steps=16
"""

from ml_collections import ConfigDict

SIZE = 224
CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")
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
    dict(fn=".data.normalize", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
  ]

  def part(name, split, transforms, batch_size):
    source = dict(make=".data.from_tfds", name=name, split=split)
    return dict(source=source, transforms=transforms, batch_size=batch_size)

  targets = {
    name: dict(
      train=part(name, train, augmented, 64),
      test=part(
        name, test, [resize, dict(fn=".data.normalize", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))], 256
      ),
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
    dict(fn=".data.normalize", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
  ]
  return ConfigDict(
    dict(
      study=".studies.pretrain.rows",
      title="Five losses on ImageNet-1K, ViT-B/16",
      notes=["Trained from scratch on ImageNet-1K alone, without strong augmentation."],
      seeds=(0, 1, 2),
      base=dict(
        model=dict(make=".models.vit_b16", dtype="bfloat16", remat=True),
        task=dict(make=".tasks.classification", loss=CROSS_ENTROPY),
        data=dict(
          source=train,
          transforms=[
            dict(fn=".data.random_resized_crop", size=SIZE, scale=(0.05, 1.0)),
            dict(fn=".data.flip_left_right"),
            dict(fn=".data.normalize", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
          ],
          batch_size=4096,
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
        optimizer=dict(
          make=".optim.adamw",
          peak_rate=3e-3,
          weight_decay=0.0,
          schedule=dict(make=".optim.cosine", warmup_steps=10000),
          clip_norm=1.0,
        ),
        # The weights in parts over the data axis: parameters and both moments of AdamW take 1 GB whole.
        sharding=dict(make=".train.fsdp"),
        epochs=300.0,
        log_every=100,
        evaluate_every=3128,  # 10 epochs
        checkpoint_every=313,  # an epoch
        flatness=dict(
          data=dict(source=train, transforms=test, batch_size=256), num_examples=2048, num_iters=30
        ),
        transfer=_transfer(),
      ),
      arms=ConfigDict(
        dict(
          cross_entropy=dict(),
          label_smoothing=dict(task=dict(loss=dict(fn=".losses.softmax_cross_entropy", label_smoothing=0.1))),
          weight_decay=dict(optimizer=dict(weight_decay=0.3)),
          smoothed_hinge=dict(task=dict(loss=dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0))),
          # rho of Chen et al. for ViT-B/16.
          sam=dict(gradient=dict(make=".optim.sam", rho=0.2)),
        ),
        sort_keys=False,  # the table's order
      ),
    )
  )
