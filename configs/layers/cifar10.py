"""Which layer over-fits, and what repairing only it is worth: a small ResNet and a small ViT, CIFAR-10.

Trained from scratch on 2,000 images that are not augmented, so that they over-fit; 500 more choose layers,
checkpoints and temperatures, 1,000 test. Every method continues for 4 epochs from the same base network.

jaxtl run configs/layers/cifar10.py --data-dir DATA
"""

from ml_collections import ConfigDict

NORMALIZE = dict(fn=".data.normalize", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
TASK = dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"))
SGD = dict(make=".optim.sgd", nesterov=True, weight_decay=5e-4)
FEW = dict(
  make=".data.subset",
  source=dict(make=".data.from_sheets", folder="cifar10", split="train"),
  num_examples=2500,
)
POL = ".optim.pol"


def _data(source, batch_size):
  return dict(source=source, transforms=[NORMALIZE], batch_size=batch_size)


def _methods():
  return dict(
    sgd=dict(gradient=dict(make=".optim.plain")),
    sam=dict(gradient=dict(make=".optim.sam", rho=0.05)),
    pof=dict(gradient=dict(make=".optim.pof")),
    pol_diagnosed=dict(gradient=dict(make=POL, update="head"), diagnosed=True),
    pol_manual=dict(gradient=dict(make=POL, perturb="head", update="stage3_block1")),
    single_layer=dict(gradient=dict(make=POL, perturb="head", update="stage3_block1", gamma_range=0.0)),
  )


def _vit():
  """What differs from the ResNet."""
  return dict(
    base=dict(
      model=dict(make=".models.vit_ti16", image_size=32, patch_size=4, width=96, depth=6, num_heads=3),
      optimizer=dict(make=".optim.adamw", peak_rate=1e-3, weight_decay=0.05),
    ),
    methods=dict(
      pol_manual=dict(gradient=dict(update="block6")),
      single_layer=dict(gradient=dict(update="block6")),
    ),
  )


def get_config():
  train = _data(dict(make=".data.part_of", source=FEW, stop=0.8), 100)
  held_out = _data(dict(make=".data.part_of", source=FEW, start=0.8), 250)
  resnet = dict(make=".models.resnet8", width=16)
  return ConfigDict(
    dict(
      study=".studies.layers.rows",
      title="Layers of CIFAR-10 networks, and their repair",
      seeds=(0, 1, 2),
      base=dict(
        base=dict(model=resnet, task=TASK, data=train, optimizer=dict(SGD, peak_rate=0.1), epochs=30.0),
        data=train,
        validation=held_out,
        test=_data(dict(make=".data.from_sheets", folder="cifar10", split="test"), 250),
        diagnosis=dict(data=held_out, num_examples=500, cross_fit=True),
        task=dict(TASK, frozen_stats=True),
        optimizer=dict(SGD, peak_rate=0.002, schedule=dict(make=".optim.constant")),
        epochs=4.0,
        methods=_methods(),
      ),
      arms=ConfigDict(dict(resnet8=dict(), vit=_vit()), sort_keys=False),
    )
  )
