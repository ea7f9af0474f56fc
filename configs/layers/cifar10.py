"""Which layer over-fits, and what repairing only it is worth: a small ResNet and a small ViT, CIFAR-10.

Trained from scratch on 2,000 images that are not augmented, so that they over-fit; 500 more choose layers,
checkpoints and temperatures, 1,000 test. Every method goes on for 4 epochs from the same base network.

jaxtl run configs/layers/cifar10.py --data-dir DATA
"""

from ml_collections import ConfigDict

NORMALIZE = dict(fn=".data.normalize", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
LOSS = dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"))


def _data(source, transforms, batch_size):
  return dict(source=source, transforms=transforms, batch_size=batch_size)


def get_config():
  few = dict(
    make=".data.subset",
    source=dict(make=".data.from_sheets", folder="cifar10", split="train"),
    num_examples=2500,
  )
  train = _data(dict(make=".data.part_of", source=few, stop=0.8), [NORMALIZE], 100)
  held_out = _data(dict(make=".data.part_of", source=few, start=0.8), [NORMALIZE], 250)
  test = _data(dict(make=".data.from_sheets", folder="cifar10", split="test"), [NORMALIZE], 250)
  pol = ".optim.pol"
  return ConfigDict(
    dict(
      study=".studies.layers.rows",
      title="Layers of CIFAR-10 networks, and their repair",
      seeds=(0, 1, 2),
      base=dict(
        base=dict(
          model=dict(make=".models.resnet8", width=16),
          task=LOSS,
          data=train,
          optimizer=dict(make=".optim.sgd", peak_rate=0.1, nesterov=True, weight_decay=5e-4),
          epochs=30.0,
        ),
        data=train,
        validation=held_out,
        test=test,
        diagnosis=dict(data=held_out, num_examples=500, cross_fit=True),
        task=dict(LOSS, frozen_stats=True),
        optimizer=dict(
          make=".optim.sgd",
          peak_rate=0.002,
          nesterov=True,
          weight_decay=5e-4,
          schedule=dict(make=".optim.constant"),
        ),
        epochs=4.0,
        methods=dict(
          sgd=dict(gradient=dict(make=".optim.plain")),
          sam=dict(gradient=dict(make=".optim.sam", rho=0.05)),
          pof=dict(gradient=dict(make=".optim.pof")),
          pol_diagnosed=dict(gradient=dict(make=pol, update="head"), diagnosed=True),
          pol_manual=dict(gradient=dict(make=pol, perturb="head", update="stage3_block1")),
          single_layer=dict(gradient=dict(make=pol, perturb="head", update="stage3_block1", gamma_range=0.0)),
        ),
      ),
      arms=ConfigDict(
        dict(
          resnet8=dict(),
          vit=dict(
            base=dict(
              model=dict(
                make=".models.vit_ti16", image_size=32, patch_size=4, width=96, depth=6, num_heads=3
              ),
              optimizer=dict(make=".optim.adamw", peak_rate=1e-3, weight_decay=0.05),
            ),
            methods=dict(
              pol_manual=dict(gradient=dict(update="block6")),
              single_layer=dict(gradient=dict(update="block6")),
            ),
          ),
        ),
        sort_keys=False,
      ),
    )
  )
