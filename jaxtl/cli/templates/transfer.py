"""Transfers one checkpoint per arm to a data set: a linear probe, and fine-tuning of all weights.

jaxtl check FILE         describe the config, without training
jaxtl run FILE           train; the same command resumes
"""

from ml_collections import ConfigDict

# A run's folder, WORKDIR/ARM/SEED, or an imported weight:
#   jaxtl import WEIGHTS.safetensors --as resnet50 --layout timm      makes runs/import/resnet50
START = "runs/pretrain/cross_entropy/0"
# A folder with train/CLASS/IMAGE and test/CLASS/IMAGE (or val/), a folder of Parquet files, tfds:NAME, or a
# built-in set: glyphs, digits, photo_patches, scene_patches. `jaxtl data check DATA` looks at it.
DATA = "digits"
TRAIN, TEST = "train", "test"
EPOCHS = 10.0
BATCH_SIZE = 32
PEAK_RATE = 1e-3

LOSS = dict(fn=".losses.softmax_cross_entropy")


def _data(split, batch_size):
  # Without transforms, images are prepared as the checkpoint expects; training images are also augmented.
  return dict(source=dict(make=".data.from_name", name=DATA, split=split), batch_size=batch_size)


def get_config():
  return ConfigDict(
    dict(
      study=".studies.transfer.rows",
      title="Transfer",
      seeds=(0, 1),
      base=dict(
        start=START,
        transfer=dict(
          targets=dict(target=dict(train=_data(TRAIN, BATCH_SIZE), test=_data(TEST, 256))),
          linear_probe=dict(),
          fine_tune=dict(
            task=dict(make=".tasks.classification", frozen_stats=True, loss=LOSS),
            optimizer=dict(
              make=".optim.adam",
              peak_rate=PEAK_RATE,
              schedule=dict(make=".optim.cosine", warmup_epochs=1.0),
            ),
            epochs=EPOCHS,
            head="probe",  # starts from the linear probe; "fresh" draws the head
          ),
        ),
      ),
      # One arm per checkpoint.
      arms=ConfigDict(
        dict(
          first=dict(),
          # second=dict(start="runs/pretrain/sam/0"),
        ),
        sort_keys=False,
      ),
    )
  )
