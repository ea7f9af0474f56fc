"""Public weights on STL-10, the head alone or all of the network: one arm for each backbone and protocol.

The imports that the arms start from, from torchvision's files (Hub name in each file's name):

jaxtl import resnet50-11ad3fa6.pth --as resnet50 --layout torchvision --out runs/import/resnet50
jaxtl import densenet201-c1103571.pth --as densenet201 --layout torchvision --out runs/import/densenet201
jaxtl import vit_b_16-c867db91.pth --as vit_b16 --layout torchvision --out runs/import/vit_b16

SGD without decay at a constant rate of 1e-3, batches of 50, 50 epochs, a test after each; the number to
compare is `least_loss` in rows.jsonl, the smallest mean cross-entropy on the test images.
"""

from ml_collections import ConfigDict

BACKBONES = ("resnet50", "densenet201", "vit_b16")


def _data(split, batch_size):
  transforms = [dict(fn=".data.resize", size=(224, 224)), dict(fn=".data.normalize")]
  return dict(
    source=dict(make=".data.from_tfds", name="stl10", split=split),
    transforms=transforms,
    batch_size=batch_size,
  )


def get_config():
  arms = {}
  for name in BACKBONES:
    start = f"runs/import/{name}"
    arms[f"{name}_fine_tune"] = dict(start=start)
    frozen = dict(fine_tune=dict(optimizer=dict(freeze=r"^(?!head/)")))
    arms[f"{name}_head_only"] = dict(start=start, transfer=frozen)
  return ConfigDict(
    dict(
      study=".studies.transfer.rows",
      title="Public weights on STL-10",
      seeds=(0,),
      base=dict(
        start="runs/import/resnet50",
        transfer=dict(
          targets=dict(stl10=dict(train=_data("train", 50), test=_data("test", 100))),
          fine_tune=dict(
            task=dict(
              make=".tasks.classification", frozen_stats=True, loss=dict(fn=".losses.softmax_cross_entropy")
            ),
            optimizer=dict(
              make=".optim.sgd", peak_rate=1e-3, momentum=0.9, schedule=dict(make=".optim.constant")
            ),
            epochs=50.0,
            evaluate_every_epochs=1.0,
          ),
        ),
      ),
      arms=ConfigDict(arms, sort_keys=False),
    )
  )
