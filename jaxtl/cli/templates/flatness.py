"""Measures how flat the loss is around one checkpoint per arm: curvature, sharpness, lines and a plane.

jaxtl check FILE         describe the config, without measuring
jaxtl run FILE           measure; the same command resumes
"""

from ml_collections import ConfigDict

# A run's folder, WORKDIR/ARM/SEED, or an imported weight:
#   jaxtl import WEIGHTS.safetensors --as resnet50 --layout timm      makes runs/import/resnet50
START = "runs/pretrain/cross_entropy/0"
# Images of the checkpoint's own classes, as a rule those that it was trained on: a folder with
# train/CLASS/IMAGE and test/CLASS/IMAGE (or val/), a folder of Parquet files, tfds:NAME, or a built-in set:
# glyphs, digits, photo_patches, scene_patches.
DATA = "glyphs"
TRAIN, TEST = "train", "test"
# More images cost more time, and represent the whole set better.
NUM_EXAMPLES = 256
BATCH_SIZE = 128


def get_config():
  source = dict(make=".data.from_name", name=DATA, split=TRAIN)
  return ConfigDict(
    dict(
      study=".studies.flatness.rows",
      title="Flatness",
      seeds=(0,),
      base=dict(
        start=START,
        # Without transforms, images are prepared as the checkpoint expects.
        flatness=dict(data=dict(source=source, batch_size=BATCH_SIZE), num_examples=NUM_EXAMPLES),
        # spectrum, layers, sharpness, slice and plane run with their defaults; None skips one:
        plane=None,
      ),
      # One arm per checkpoint; compare weights of one architecture and one data set.
      arms=ConfigDict(
        dict(
          first=dict(),
          # second=dict(start="runs/pretrain/sam/0"),
        ),
        sort_keys=False,
      ),
    )
  )
