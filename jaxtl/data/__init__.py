"""Sources of labelled images, transforms, and the pipeline that makes numpy batches of them."""

from __future__ import annotations

from jaxtl.data.bad_records import BadRecords
from jaxtl.data.check import Report, check_source
from jaxtl.data.order import ORDER_VERSION
from jaxtl.data.pipeline import (
  draws,
  eval_batches,
  first_batches,
  image_shape,
  resampled_batches,
  resampled_order,
  train_batches,
  train_order,
)
from jaxtl.data.preview import augmented_preview, contact_sheet, gallery
from jaxtl.data.shared_images import shared_images
from jaxtl.data.sources.bundled import digits, photo_patches, scene_patches
from jaxtl.data.sources.by_name import choose_split, from_name, open_source
from jaxtl.data.sources.files import from_npz, from_sheets
from jaxtl.data.sources.folder import from_folder, left_out_line
from jaxtl.data.sources.glyphs import glyphs
from jaxtl.data.sources.imagenet import imagenet
from jaxtl.data.sources.joined import joined
from jaxtl.data.sources.parquet import from_parquet
from jaxtl.data.sources.source import Source, from_arrays, need_two_classes, part_of, subset
from jaxtl.data.sources.storage import Deferred, Encoded, Files
from jaxtl.data.sources.tfds import RecordSource, StreamSource, from_tfds
from jaxtl.data.transforms.aug_mix import aug_mix, aug_mix_jsd
from jaxtl.data.transforms.augment import color_jitter, flip_left_right, random_erasing, rotate, to_gray
from jaxtl.data.transforms.blur import gaussian_blur
from jaxtl.data.transforms.declared import MIXED_LABELS, VIEWS, check_transforms, declares, gives
from jaxtl.data.transforms.geometry import random_crop, random_scale
from jaxtl.data.transforms.images import (
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
from jaxtl.data.transforms.mix import cutmix, mixup, one_of_batch
from jaxtl.data.transforms.policies import auto_augment, trivial_augment
from jaxtl.data.transforms.preprocessing import Preprocessing
from jaxtl.data.transforms.rand_augment import rand_augment
from jaxtl.data.transforms.timm_mix import timm_mix

__all__ = [
  "CIFAR10_MEAN",
  "CIFAR10_STD",
  "IMAGENET_MEAN",
  "IMAGENET_STD",
  "MIXED_LABELS",
  "ORDER_VERSION",
  "VIEWS",
  "BadRecords",
  "Deferred",
  "Encoded",
  "Files",
  "Preprocessing",
  "RecordSource",
  "Report",
  "Source",
  "StreamSource",
  "aug_mix",
  "aug_mix_jsd",
  "augmented_preview",
  "auto_augment",
  "center_crop",
  "check_source",
  "check_transforms",
  "choose_split",
  "color_jitter",
  "contact_sheet",
  "cutmix",
  "declares",
  "digits",
  "draws",
  "eval_batches",
  "first_batches",
  "flip_left_right",
  "from_arrays",
  "from_folder",
  "from_name",
  "from_npz",
  "from_parquet",
  "from_sheets",
  "from_tfds",
  "gallery",
  "gaussian_blur",
  "gives",
  "glyphs",
  "image_shape",
  "imagenet",
  "joined",
  "left_out_line",
  "mixup",
  "need_two_classes",
  "normalize",
  "one_of_batch",
  "open_source",
  "pad_crop",
  "part_of",
  "photo_patches",
  "rand_augment",
  "random_crop",
  "random_erasing",
  "random_resized_crop",
  "random_scale",
  "resampled_batches",
  "resampled_order",
  "resize",
  "rotate",
  "scene_patches",
  "shared_images",
  "subset",
  "timm_mix",
  "to_gray",
  "to_rgb",
  "train_batches",
  "train_order",
  "trivial_augment",
]
