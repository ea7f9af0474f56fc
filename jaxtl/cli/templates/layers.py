"""Finds the layers of a network that over-fit, and continues training only them: POL and its relatives.

jaxtl check FILE         describe the config, without training
jaxtl run FILE           train; the same command resumes
"""

from ml_collections import ConfigDict

# A folder with train/CLASS/IMAGE and test/CLASS/IMAGE (or val/), a folder of Parquet files, tfds:NAME, or a
# built-in set: glyphs, digits, photo_patches, scene_patches. `jaxtl data check DATA` looks at it.
DATA = "digits"
TRAIN, TEST = "train", "test"
# Side of the images in pixels.
SIZE = 32
MODEL = dict(make=".models.resnet8", width=8)
BASE_EPOCHS = 10.0
EPOCHS = 4.0
BATCH_SIZE = 64
PEAK_RATE = 0.1

TASK = dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"))
SGD = dict(make=".optim.sgd", nesterov=True, weight_decay=5e-4)
PLAIN = [
  dict(fn=".data.resize", size=SIZE),
  dict(fn=".data.center_crop", size=SIZE),
  dict(fn=".data.normalize"),
]


def _data(source, batch_size=BATCH_SIZE):
  return dict(source=source, transforms=PLAIN, batch_size=batch_size)


def get_config():
  images = dict(make=".data.from_name", name=DATA, split=TRAIN)
  # A fifth of the training images chooses layers and checkpoints.
  train = _data(dict(make=".data.part_of", source=images, stop=0.8))
  held_out = _data(dict(make=".data.part_of", source=images, start=0.8))
  return ConfigDict(
    dict(
      study=".studies.layers.rows",
      title="Layers and their repair",
      seeds=(0,),
      base=dict(
        # The network to repair is trained here; for an existing one, write start="FOLDER" and leave out base.
        base=dict(
          model=MODEL, task=TASK, data=train, optimizer=dict(SGD, peak_rate=PEAK_RATE), epochs=BASE_EPOCHS
        ),
        data=train,
        validation=held_out,
        test=_data(dict(make=".data.from_name", name=DATA, split=TEST), 256),
        diagnosis=dict(data=held_out, num_examples=200),
        task=dict(TASK, frozen_stats=True),
        optimizer=dict(SGD, peak_rate=0.002, schedule=dict(make=".optim.constant")),
        epochs=EPOCHS,
        methods=dict(
          sgd=dict(gradient=dict(make=".optim.plain")),
          sam=dict(gradient=dict(make=".optim.sam", rho=0.05)),
          # The diagnosis chooses the layers that are perturbed and trained, and replaces `update`.
          pol=dict(gradient=dict(make=".optim.pol", update="head"), diagnosed=True),
        ),
      ),
      arms=ConfigDict(dict(network=dict()), sort_keys=False),
    )
  )
