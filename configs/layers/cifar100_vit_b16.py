"""PoF and PoL on ViT-B/16 fine-tuned to CIFAR-100, the setting of the papers' table.

Fine-tuned by SGD for 60 epochs with batches of 128, then 10 epochs of post-training by each method: Terauchi,
Sato, Kawakami, "Model diagnosis for better generalisation" (in Japanese), who report a test loss of 0.7155
after SGD, 0.4507 with PoF (817 s per epoch, 21,614 MiB) and 0.4446 with PoL (443 s, 6,274 MiB), on one GPU. A
tenth of the training images is held out for diagnosis, checkpoints and temperatures, which they do not say
they had. The rates are of this config: the source has none.

CIFAR-100 is TFDS's, prepared as array_record.

jaxtl import FILE --as vit_b16 --layout augreg --out runs/import/vit_b16
jaxtl run configs/layers/cifar100_vit_b16.py --data-dir DATA
"""

from ml_collections import ConfigDict

NORMALIZE = dict(fn=".data.normalize", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PLAIN = [dict(fn=".data.resize", size=224), dict(fn=".data.center_crop", size=224), NORMALIZE]
AUGMENTED = [
  dict(fn=".data.random_resized_crop", size=224, scale=(0.8, 1.0)),
  dict(fn=".data.flip_left_right"),
  NORMALIZE,
]
TASK = dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"))


def _data(split, transforms, num_examples):
  return dict(
    source=dict(make=".data.from_tfds", name="cifar100", split=split),
    transforms=transforms,
    batch_size=128,
    num_examples=num_examples,
    num_classes=100,
  )


def get_config():
  train = _data("train[:90%]", AUGMENTED, 45000)
  held_out = _data("train[90%:]", PLAIN, 5000)
  sgd = dict(make=".optim.sgd", momentum=0.9, nesterov=True, weight_decay=5e-4)
  pol = ".optim.pol"
  return ConfigDict(
    dict(
      study=".studies.layers.rows",
      title="Layers of ViT-B/16 on CIFAR-100, and their repair",
      seeds=(0, 1, 2),
      base=dict(
        base=dict(
          model=dict(make=".models.vit_b16"),
          start="runs/import/vit_b16",
          task=TASK,
          data=train,
          optimizer=dict(sgd, peak_rate=0.01),
          epochs=60.0,
          checkpoint_every=703,  # two epochs
        ),
        data=train,
        validation=held_out,
        test=_data("test", PLAIN, 10000),
        diagnosis=dict(data=held_out, num_examples=5000, cross_fit=True),
        task=TASK,
        optimizer=dict(sgd, peak_rate=1e-4, schedule=dict(make=".optim.constant")),
        epochs=10.0,
        methods=dict(
          sgd=dict(gradient=dict(make=".optim.plain")),
          sam=dict(gradient=dict(make=".optim.sam", rho=0.05)),
          pof=dict(gradient=dict(make=".optim.pof")),
          pol_diagnosed=dict(gradient=dict(make=pol, update="head"), diagnosed=True),
          pol_manual=dict(gradient=dict(make=pol, perturb="head", update="block12")),
          single_layer=dict(gradient=dict(make=pol, perturb="head", update="block12", gamma_range=0.0)),
        ),
      ),
      arms=ConfigDict(dict(vit_b16=dict()), sort_keys=False),
    )
  )
