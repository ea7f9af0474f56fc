"""Fine-tunes a checkpoint on a new task, and finds the point on the way that is best for old and new task.

jaxtl check FILE         describe the config, without training
jaxtl run FILE           train; the same command resumes
"""

from ml_collections import ConfigDict

# A run's folder, WORKDIR/ARM/SEED, or an imported weight:
#   jaxtl import WEIGHTS.safetensors --as resnet50 --layout timm      makes runs/import/resnet50
START = "runs/pretrain/cross_entropy/0"
# The task that the checkpoint was trained for, with its own head.
SUPPORTED = "glyphs"
# The new task. Both are a folder with train/CLASS/IMAGE and test/CLASS/IMAGE (or val/), a folder of Parquet
# files, tfds:NAME, or a built-in set: glyphs, digits, photo_patches, scene_patches.
DATA = "digits"
TRAIN, TEST = "train", "test"
# The preprocessing of the checkpoint; both tasks share it.
SIZE = 32
NORMALIZE = dict(fn=".data.normalize")
EPOCHS = 10.0
PEAK_RATE = 1e-3

PLAIN = [dict(fn=".data.resize", size=SIZE), dict(fn=".data.center_crop", size=SIZE), NORMALIZE]
AUGMENTED = [dict(fn=".data.random_resized_crop", size=SIZE, scale=(0.9, 1.0)), NORMALIZE]


def _task(name, train, test, **head):
  images = dict(make=".data.from_name", name=name, split=train)
  # A tenth of the training images chooses the coefficient.
  part = dict(make=".data.part_of", source=images, start=0.9)
  rest = dict(make=".data.part_of", source=images, stop=0.9)
  return dict(
    train=dict(source=rest, transforms=AUGMENTED, batch_size=64),
    validation=dict(source=part, transforms=PLAIN, batch_size=256),
    test=dict(source=dict(make=".data.from_name", name=name, split=test), transforms=PLAIN, batch_size=256),
    **head,
  )


def get_config():
  return ConfigDict(
    dict(
      study=".studies.patching.rows",
      title="Patching",
      seeds=(0,),
      base=dict(
        start=START,
        # `own` is the checkpoint's head. Any other task gets a linear probe, which stays frozen.
        supported=dict(old=_task(SUPPORTED, "train", "test", head=dict(fn=".studies.patching.own"))),
        patching=dict(new=_task(DATA, TRAIN, TEST)),
        fine_tune=dict(
          task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
          optimizer=dict(make=".optim.adam", peak_rate=PEAK_RATE, clip_norm=1.0),
          epochs=EPOCHS,
        ),
      ),
      # statistics_batches re-estimates the statistics of batch normalisation between the two weights.
      arms=ConfigDict(dict(patch=dict(statistics_batches=8)), sort_keys=False),
    )
  )
