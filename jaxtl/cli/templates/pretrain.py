"""Pre-trains one network per arm, evaluates it, and fits a linear probe on other data.

jaxtl check FILE         describe the config, without training
jaxtl run FILE           train; the same command resumes
jaxtl run FILE base.epochs=1.0 --arms cross_entropy      any value from the command line
"""

from ml_collections import ConfigDict

# A folder with train/CLASS/IMAGE and test/CLASS/IMAGE (or val/), a folder of Parquet files, tfds:NAME, or a
# built-in set: glyphs, digits, photo_patches, scene_patches. `jaxtl data check DATA` looks at it.
DATA = "glyphs"
TRAIN, TEST = "train", "test"
# Side of the images in pixels. With ImageNet's 224, take .models.resnet50 or another of `jaxtl models`.
SIZE = 32
MODEL = dict(make=".models.resnet8", width=8)
EPOCHS = 5.0
BATCH_SIZE = 64
# For a batch of 64; it usually grows in proportion to the batch.
PEAK_RATE = 0.1

LOSS = dict(fn=".losses.softmax_cross_entropy")
# ImageNet's mean and standard deviation, unless `mean` and `std` are given.
NORMALIZE = dict(fn=".data.normalize")
AUGMENTED = [
  dict(fn=".data.random_resized_crop", size=SIZE, scale=(0.5, 1.0)),
  # dict(fn=".data.flip_left_right"),  # for photographs; glyphs and digits have a left and a right
  NORMALIZE,
]
PLAIN = [dict(fn=".data.resize", size=SIZE), dict(fn=".data.center_crop", size=SIZE), NORMALIZE]


def _data(split, transforms, *, name=DATA, batch_size=BATCH_SIZE):
  source = dict(make=".data.from_name", name=name, split=split)
  return dict(source=source, transforms=transforms, batch_size=batch_size)


def get_config():
  probe = dict(train=_data("train", PLAIN, name="digits"), test=_data("test", PLAIN, name="digits"))
  return ConfigDict(
    dict(
      study=".studies.pretrain.rows",
      title="Pre-training",
      seeds=(0,),
      base=dict(
        model=MODEL,
        task=dict(make=".tasks.classification", loss=LOSS),
        data=_data(TRAIN, AUGMENTED),
        evaluation=dict(test=_data(TEST, PLAIN)),
        optimizer=dict(
          make=".optim.sgd",
          peak_rate=PEAK_RATE,
          weight_decay=5e-4,
          nesterov=True,
          schedule=dict(make=".optim.cosine", warmup_epochs=0.5),
        ),
        epochs=EPOCHS,
        transfer=dict(targets=dict(digits=probe), linear_probe=dict()),  # None skips it
      ),
      # The values of an arm replace those of base.
      arms=ConfigDict(
        dict(
          cross_entropy=dict(),
          sam=dict(gradient=dict(make=".optim.sam", rho=0.05)),
        ),
        sort_keys=False,
      ),
    )
  )
