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
