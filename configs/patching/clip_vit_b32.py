"""PAINT with CLIP ViT-B/32: four supported and nine patching tasks, 36 pairs, zero-shot heads.

The tasks and the protocol are those of Ilharco et al., "Patching open-vocabulary models by interpolating
weights", 2022, arXiv 2208.05592, with FashionMNIST in place of KITTI. The recipe is that of Cherti et al.,
"Reproducible scaling laws for contrastive language-image learning", 2022, arXiv 2212.07143, section 4.4:
2,000 steps with batches of 128, AdamW at 1e-5 with decay 0.1 on everything, 200 steps of warm-up, the norm of
the gradient clipped at 1, the image tower alone. The coefficient is chosen on a tenth of the training images,
at most 5,000.

Data are TFDS's, prepared as array_record, but for GTSRB, which are class folders gtsrb/train, gtsrb/test.

jaxtl import FILE --as clip_vit_b32 --layout hugging_face --out runs/import/clip_b32 head=scaled_cosine
jaxtl import FILE --as clip_text_b --layout hugging_face --out runs/import/clip_text_b
jaxtl run configs/patching/clip_vit_b32.py --data-dir DATA
"""

from ml_collections import ConfigDict

SIZE, BATCH = 224, 128
NORMALIZE = dict(
  fn=".data.normalize", mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)
TRAIN = [
  dict(fn=".data.random_resized_crop", size=SIZE, scale=(0.9, 1.0), interpolation="bicubic"),
  NORMALIZE,
]
TEST = [
  dict(fn=".data.resize", size=SIZE, interpolation="bicubic"),
  dict(fn=".data.center_crop", size=SIZE),
  NORMALIZE,
]


def _tfds(name, split):
  return dict(make=".data.from_tfds", name=name, split=split)


def _task(prompts, num_classes, train, validation, test):
  """Parts are (source, number of examples)."""

  def part(source, transforms):
    made, size = source
    return dict(
      source=made, transforms=transforms, batch_size=BATCH, num_examples=size, num_classes=num_classes
    )

  return dict(
    train=part(train, TRAIN) if train else None,
    validation=part(validation, TEST),
    test=part(test, TEST),
    head=dict(
      make=".studies.patching.zero_shot",
      text="runs/import/clip_text_b",
      vocabulary="bpe_simple_vocab_16e6.txt.gz",
      prompts=prompts,
    ),
  )


def _of_tfds(name, prompts, num_classes, *parts):
  """Parts are (split in TFDS's notation, number of examples): train, validation, test."""
  return _task(prompts, num_classes, *((_tfds(name, split), size) for split, size in parts))


def _held_out(name, prompts, num_classes, *, train, validation, test):
  """The last images of the training split are held out."""
  edge = f"train[:{train}]", f"train[{train}:]"
  return _of_tfds(name, prompts, num_classes, (edge[0], train), (edge[1], validation), ("test", test))


def _supported():
  imagenet = dict(make=".data.subset", source=dict(make=".data.imagenet", split="train"), num_examples=5000)
  test = dict(make=".data.imagenet", split="val")
  return dict(
    imagenet=_task("imagenet", 1000, None, (imagenet, 5000), (test, 50000)),
    cifar10=_held_out("cifar10", "cifar10", 10, train=45000, validation=5000, test=10000),
    cifar100=_held_out("cifar100", "cifar100", 100, train=45000, validation=5000, test=10000),
    stl10=_held_out("stl10", "stl10", 10, train=4500, validation=500, test=8000),
  )


def _gtsrb():
  train, test = (dict(make=".data.from_folder", folder=f"gtsrb/{split}") for split in ("train", "test"))
  rest, part = (
    dict(make=".data.part_of", source=train, **edge) for edge in (dict(stop=0.9), dict(start=0.9))
  )
  return _task("gtsrb", 43, (rest, None), (part, None), (test, 12630))


def _patching():
  return dict(
    cars=_held_out("cars196", "cars", 196, train=7330, validation=814, test=8041),
    dtd=_of_tfds(
      *("dtd", "dtd", 47),
      ("train[:1692]+validation[:1692]", 3384),
      ("train[1692:]+validation[1692:]", 376),
      ("test", 1880),
    ),
    eurosat=_of_tfds(
      *("eurosat", "eurosat", 10),
      ("train[:21600]", 21600),
      ("train[21600:24300]", 2700),
      ("train[24300:]", 2700),
    ),
    fashion_mnist=_held_out("fashion_mnist", "fashion_mnist", 10, train=55000, validation=5000, test=10000),
    gtsrb=_gtsrb(),
    mnist=_held_out("mnist", "mnist", 10, train=55000, validation=5000, test=10000),
    # TFDS has all 31,500 as one split; 60 % train and hold out, the last 20 % test.
    resisc45=_of_tfds(
      *("resisc45", "resisc45", 45),
      ("train[:17010]", 17010),
      ("train[17010:18900]", 1890),
      ("train[25200:]", 6300),
    ),
    sun397=_held_out("sun397/standard-part1-120k", "sun397", 397, train=17865, validation=1985, test=19850),
    svhn=_held_out("svhn_cropped", "svhn", 10, train=68257, validation=5000, test=26032),
  )


def get_config():
  return ConfigDict(
    dict(
      study=".studies.patching.rows",
      title="Patching CLIP ViT-B/32",
      seeds=(0,),
      base=dict(
        start="runs/import/clip_b32",
        supported=_supported(),
        patching=_patching(),
        fine_tune=dict(
          task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
          optimizer=dict(
            make=".optim.adamw",
            peak_rate=1e-5,
            weight_decay=0.1,
            decay_where=".*",
            clip_norm=1.0,
            schedule=dict(make=".optim.cosine", warmup_steps=200),
          ),
          steps=2000,
        ),
        merging=dict(),
      ),
      arms=ConfigDict(dict(loss_ratio=dict(), endpoints=dict(normalise="endpoints")), sort_keys=False),
    )
  )
