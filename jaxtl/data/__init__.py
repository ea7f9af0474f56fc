"""Sources of labelled images, transforms, and the pipeline that makes numpy batches of them."""

from __future__ import annotations

from jaxtl.data.augment import color_jitter, flip_left_right, random_erasing, rotate, to_gray
from jaxtl.data.bad_records import BadRecords
from jaxtl.data.bundled import digits, photo_patches, scene_patches
from jaxtl.data.check import Report, check_source
from jaxtl.data.drawn import glyphs
from jaxtl.data.files import from_npz, from_sheets
from jaxtl.data.folder import from_folder, left_out_line
from jaxtl.data.imagenet import imagenet
from jaxtl.data.images import (
  CIFAR10_MEAN,
  CIFAR10_STD,
  IMAGENET_MEAN,
  IMAGENET_STD,
  center_crop,
  normalize,
  pad_crop,
  random_resized_crop,
  resize,
  to_rgb,
)
from jaxtl.data.joined import joined
from jaxtl.data.mix import cutmix, mixup
from jaxtl.data.opening import choose_split, from_name, open_source
from jaxtl.data.order import ORDER_VERSION
from jaxtl.data.parquet import from_parquet
from jaxtl.data.pipeline import (
  drawn_batches,
  drawn_order,
  draws,
  eval_batches,
  image_shape,
  train_batches,
  train_order,
)
from jaxtl.data.policies import rand_augment
from jaxtl.data.preprocessing import Preprocessing
from jaxtl.data.preview import augmented_preview, contact_sheet, gallery
from jaxtl.data.sources import Source, from_arrays, need_two_classes, part_of, subset
from jaxtl.data.storage import Deferred, Encoded, Files
from jaxtl.data.tfds import RecordSource, StreamSource, from_tfds

__all__ = [
  "CIFAR10_MEAN",
  "CIFAR10_STD",
  "IMAGENET_MEAN",
  "IMAGENET_STD",
  "ORDER_VERSION",
  "BadRecords",
  "Deferred",
  "Encoded",
  "Files",
  "Preprocessing",
  "RecordSource",
  "Report",
  "Source",
  "StreamSource",
  "augmented_preview",
  "center_crop",
  "check_source",
  "choose_split",
  "color_jitter",
  "contact_sheet",
  "cutmix",
  "digits",
  "drawn_batches",
  "drawn_order",
  "draws",
  "eval_batches",
  "flip_left_right",
  "from_arrays",
  "from_folder",
  "from_name",
  "from_npz",
  "from_parquet",
  "from_sheets",
  "from_tfds",
  "gallery",
  "glyphs",
  "image_shape",
  "imagenet",
  "joined",
  "left_out_line",
  "mixup",
  "need_two_classes",
  "normalize",
  "open_source",
  "pad_crop",
  "part_of",
  "photo_patches",
  "rand_augment",
  "random_erasing",
  "random_resized_crop",
  "resize",
  "rotate",
  "scene_patches",
  "subset",
  "to_gray",
  "to_rgb",
  "train_batches",
  "train_order",
]
