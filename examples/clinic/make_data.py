"""A made hospital: DICOM studies of two views with reports in English and Chinese, and a finding that can be learned.

    python -m examples.clinic.make_data --out data/hospital

Each study is of another made patient: a frontal and a side view in a folder of its own, in 12 bits, with the tags that
a device writes. Half of the studies have a finding, a bright nodule, which both views show and both reports state.
Everything else (fields, ribs, grain, brightness) does not depend on it. reports.csv names a picture a row. With
--no-finding the reports are the same and no picture shows anything of what they say: whoever measures honestly must not
find a model that can tell.
"""

import csv
import io
import sys
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset

from data_tools.common import cli
from vglm_train.errors import UserError
from vglm_train.files import write_text
from vglm_train.folders import make_folder

SIDE = 256  # pixels of a picture
ROOT = "1.2.826.0.1.3680043.10.1"  # of UIDs
VIEWS = {"PA": ((0.30, 0.52), (0.70, 0.52)), "LL": ((0.50, 0.52),)}  # centres of the lung fields, of a picture's size
REPORTS = {
    True: ("Nodule in the lung.", "肺内结节。"),
    False: ("No abnormality.", "未见异常。"),
}
TABLE = "reports.csv"
COLUMNS = ("image", "patient", "report_en", "report_zh")


def draw_view(view: str, finding: bool, rng: Random) -> NDArray[np.uint16]:
    """[h,w] of 12 bits: a view of VIEWS, with a nodule in one of its fields if there is a `finding`."""
    picture = Image.new("L", (SIDE, SIDE), rng.randint(95, 120))
    pen, dark = ImageDraw.Draw(picture), rng.randint(30, 45)
    for centre in VIEWS[view]:
        x, y = ((value + rng.uniform(-0.02, 0.02)) * SIDE for value in centre)
        wide, high = rng.uniform(0.15, 0.17) * SIDE, rng.uniform(0.28, 0.32) * SIDE
        pen.ellipse((x - wide, y - high, x + wide, y + high), fill=dark)
    for rib in range(5):
        y = (0.28 + 0.12 * rib + rng.uniform(-0.01, 0.01)) * SIDE
        pen.arc((0.08 * SIDE, y, 0.92 * SIDE, y + 0.2 * SIDE), 200, 340, fill=dark + 25, width=4)
    x, y = ((value + rng.uniform(-0.04, 0.04)) * SIDE for value in rng.choice(VIEWS[view]))
    half, bright = rng.uniform(0.11, 0.14) * SIDE, rng.randint(225, 250)
    if finding:
        pen.ellipse((x - half, y - half, x + half, y + half), fill=bright)
    picture = picture.filter(ImageFilter.GaussianBlur(2))
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, 6, (SIDE, SIDE))
    values = np.asarray(picture, dtype=np.float64) + grain
    return (np.clip(values, 0, 255) * 16).astype(np.uint16)


def dicom(values: NDArray[np.uint16], number: int, view: str) -> bytes:
    """A file as a device writes it, of the patient and the study `number`."""
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    name = uid.UID(f"{ROOT}.{number}.{list(VIEWS).index(view) + 1}")
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID = name
    out.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    out.StudyInstanceUID, out.SeriesInstanceUID = f"{ROOT}.{number}.0", f"{name}.1"
    out.PatientName, out.PatientID = f"MADE^Patient{number:03d}", f"MADE-{number:05d}"
    out.AccessionNumber, out.StudyDate = f"ACC{number:06d}", f"2024{number % 12 + 1:02d}{number % 28 + 1:02d}"
    out.Modality, out.BodyPartExamined, out.ViewPosition = "DX", "CHEST", view
    out.Rows, out.Columns = values.shape
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 16, 12, 11, 0
    out.WindowCenter, out.WindowWidth = 2048, 4096
    out.PixelData = values.tobytes()
    out["PixelData"].VR = "OW"
    file = io.BytesIO()
    dcmwrite(file, out, enforce_file_format=True)
    return file.getvalue()


def write_hospital(folder: Path, studies: int, shown: bool, seed: int) -> None:
    """Write so many studies and their reports, half of which state a finding; `shown`: the pictures show it.

    The same seed gives the same files. UserError where `folder` holds anything.
    """
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise UserError(f"--out {folder}: a file, or a folder that holds something; give a new one")
    make_folder(f"--out {folder}", folder)
    rng = Random(f"clinic {seed}")
    findings = [number % 2 == 0 for number in range(studies)]
    rng.shuffle(findings)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for number, finding in enumerate(findings):
        study = folder / f"study{number:04d}"
        study.mkdir()
        for place, view in enumerate(VIEWS):
            name = f"IM{place:04d}"
            (study / name).write_bytes(dicom(draw_view(view, finding and shown, rng), number, view))
            table.writerow((f"{study.name}/{name}", f"MADE-{number:05d}", *REPORTS[finding]))
    write_text(folder / TABLE, text.getvalue())


def main() -> int:
    parser = cli.parser("examples.clinic.make_data", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--studies", type=cli.at_least_one, default=60, help="studies of two views (default 60)")
    parser.add_argument("--no-finding", action="store_true", help="pictures show nothing of what reports say")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random (default 0)")
    args = parser.parse_args(sys.argv[1:])
    write_hospital(args.out, args.studies, not args.no_finding, args.seed)
    print(f"{args.out}: {args.studies} studies of {len(VIEWS)} views, and {TABLE}")
    return 0


if __name__ == "__main__":
    cli.command(main)
