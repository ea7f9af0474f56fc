"""Judges scores of one checkpoint per arm: do they order the checkpoints as their linear probes do?

jaxtl check FILE         describe the config, without measuring
jaxtl run FILE           measure; the same command resumes
"""

from ml_collections import ConfigDict

# A run's folder, WORKDIR/ARM/SEED, or an imported weight:
#   jaxtl import WEIGHTS.safetensors --as resnet50 --layout timm      makes runs/import/resnet50
START = "runs/pretrain/cross_entropy/0"
# A folder with train/CLASS/IMAGE and test/CLASS/IMAGE (or val/), a folder of Parquet files, tfds:NAME, or a
# built-in set: glyphs, digits, photo_patches, scene_patches. `jaxtl data check DATA` looks at it.
DATA = "digits"
TRAIN, TEST = "train", "test"
BATCH_SIZE = 64


def _data(split):
  # Without transforms, images are prepared as the checkpoint expects.
  return dict(source=dict(make=".data.from_name", name=DATA, split=split), batch_size=BATCH_SIZE)


def get_config():
  return ConfigDict(
    dict(
      study=".studies.selection.rows",
      title="Selection",
      seeds=(0,),
      base=dict(
        start=START,
        transfer=dict(
          # Five targets or more are needed to prefer a score.
          targets=dict(target=dict(train=_data(TRAIN), test=_data(TEST))),
          linear_probe=dict(),
        ),
      ),
      # One arm per checkpoint; seeds of one recipe share a cluster.
      arms=ConfigDict(
        dict(
          first=dict(),
          # second=dict(start="runs/pretrain/sam/0", cluster="sam", source_accuracy=0.7),
        ),
        sort_keys=False,
      ),
    )
  )
