"""The options of `convert`."""

import argparse
from pathlib import Path
from typing import get_args

from data_tools.common import cli
from data_tools.common.text import LANGUAGES
from data_tools.convert.dicom import frame_argument, window_argument
from data_tools.convert.report_text import EARLIER, PARTS
from vglm_train.config.data import Format
from vglm_train.image.dicom.window import FILE, FORMS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All of them."""
    add = parser.add_argument
    add("source", help=".json, .jsonl, .csv, .tsv, .tar, .parquet; a folder of these; for hf also a dataset's name")
    cli.add_table_options(parser, [*get_args(Format), "hf"])
    add("--out", required=True, type=Path, help="records file to write, for instance records.jsonl")
    images = "folder that picture paths are relative to (default: the source's folder); where the pictures are inside "
    add("--images", type=Path, help=images + "the data (tar, parquet, ...): that they are written to (OUT's images)")
    add("--source", dest="name", help="the records' source (default: the source's file or folder name)")
    add("--split", default="train", help="the records' split where the source does not say (default: train)")
    add("--language", choices=LANGUAGES, help="language of the texts (default: detected in each text)")
    add("--field", action="append", default=[], metavar="WHAT=KEY", help="as data.train.N.fields; repeatable")
    add("--image-field", help="column with the picture")
    add("--caption-field", action="append", default=[], metavar="[LANG=]COLUMN", help="captions; repeatable")
    add("--id-field", help="column with the record's id (default: id or question_id, else the picture's path)")
    add("--split-field", help="column with the split (default: split, if there is one)")
    add(
        "--group-field",
        help="column with what must stay in one split (default: group, patient or study, else the picture)",
    )
    add("--quick", action="store_true", help="look whether pictures are there, and decode none")
    add("--window", type=window_argument, default=FILE, help=f"DICOM: black and white: {FORMS} (default: file)")
    add("--frame", type=frame_argument, default="first", help="DICOM: first, middle, each or a number (default: first)")
    add("--salt", type=Path, help="DICOM: file with the salt of hashes (default: one of your own, made once)")
    private = "PNG, JPEG and others become files of pixels alone, and their rows' ids and groups hashes, as of DICOM"
    add("--private", action="store_true", help=private)
    add("--hf-config", help="hf: the dataset's configuration")
    add("--hf-split", help="hf: read only this split (default: all, each kept as the records' split)")
    _add_study_arguments(parser)


def _add_study_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--studies", action="store_true", help="the pictures of a study become one record (DICOM: Study Instance UID)")
    study = "column that tells the study; without a column of pictures: its folder, or a number that its DICOM files "
    add("--study-field", metavar="COLUMN", help=study + "have (study UID, accession number, study ID)")
    add("--views", type=cli.at_least_one, default=2, help="pictures of a study at most, frontal first (default: 2)")
    add("--report-part", choices=PARTS, default="whole", help="what of a report is learned (default: whole)")
    part = "column with the findings or the impression (default: those that are called as headings are); repeatable"
    add("--part-field", action="append", default=[], metavar="PART=COLUMN", help=part)
    add("--earlier", choices=EARLIER, default="keep", help="what refers to an earlier study (default: keep)")
