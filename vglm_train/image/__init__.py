"""Pictures, from files to pixels.

decode.py      bytes of a file -> an upright RGB picture, the same for every reader
depth.py       pictures of more than 8 bits as Pillow gives them
levels.py      their black and white
part.py        which part of a picture is wanted, and where it lies once it is decoded smaller
jpeg_header.py the header of common JPEGs, faster than Pillow
resize.py      that part as pixels, by libjpeg-turbo and torch
limits.py      what a stranger's picture may cost, judged before it is decoded
tags.py        TIFF's and EXIF's directories
transforms.py  crops and squares for training and evaluation
"""

from vglm_train.image.decode import (
    FORMATS,
    MAX_PIXELS,
    SUFFIXES,
    ExaminedImage,
    ImageHeader,
    examine_image,
    open_image,
    read_header,
)
from vglm_train.image.errors import ImageError
from vglm_train.image.limits import ImageLimits, check_image
from vglm_train.image.transforms import Decoder, Fit, crop_pixels, eval_pixels, random_crop, train_pixels, whole_pixels

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Decoder",
    "ExaminedImage",
    "Fit",
    "ImageError",
    "ImageHeader",
    "ImageLimits",
    "check_image",
    "crop_pixels",
    "eval_pixels",
    "examine_image",
    "open_image",
    "random_crop",
    "read_header",
    "train_pixels",
    "whole_pixels",
]
