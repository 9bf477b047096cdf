"""Files that are no tables in text: each has its cause and a way out."""

from pathlib import Path

from vglm_train.errors import UserError
from vglm_train.file_kind import kind_of

PICKLES = (".pkl", ".pickle", ".p", ".pt", ".pth")
PICKLE = (
    "to open it would run whatever program is in it, so it never is. Take the same data as JSON, CSV or Parquet (of "
    "PathVQA and others the Hugging Face hub has Parquet files with the pictures in them)"
)
WORKBOOKS = (".xlsx", ".xlsm", ".ods", ".xls")
PICTURE = "no table; give the file whose rows name the pictures"
UNPACK = "unpack it, and give the file that was in it"
ADVICE = {
    "gzip": "no row in it can be read by itself; unpack it: gunzip -k {path}",
    "zstd": "unpack it: zstd -d -k {path}",
    "bzip2": "unpack it: bunzip2 -k {path}",
    "xz": "unpack it: unxz -k {path}",
    "lz4": "unpack it: lz4 -d -k {path}",
    "zip": UNPACK,
    "archive": UNPACK,
    "parquet": "name it .parquet, or give format: parquet",
    "arrow": "give the folder that `datasets` saved it in",
    "tar": "name it .tar, or give format: tar",
    "office": "save the workbook as CSV in UTF-8",
    "hdf5": "write its rows as JSONL",
    "numpy": "write its rows as JSONL",
    "sqlite": "write its rows as JSONL",
    "pdf": "write its rows as JSONL",
    "pickle": PICKLE,
    "lfs": "git lfs pull fetches the file itself",
    "html": "what should have been downloaded was not; download it again",
    **dict.fromkeys(("jpeg", "png", "gif", "webp", "tiff", "bmp", "avif", "heic", "dicom", "nifti"), PICTURE),
}
"""What to do where a table was meant, by `FileKind.name`. Kinds that are not here may be tables: their reader says."""


def refuse_other_files(path: Path, head: bytes) -> None:
    """UserError where a file that should be a table in text is something else. `head`: how it begins."""
    kind, suffix = kind_of(head), path.suffix.lower()
    what, advice = kind.what, ADVICE.get(kind.name)
    if kind.name in ("zip", "office") and suffix in WORKBOOKS:
        what, advice = "an Excel workbook", "save it as CSV in UTF-8"
    elif suffix in PICKLES and advice is None:
        what, advice = "a pickle", PICKLE
    if advice is not None:
        raise UserError(f"{path} is {what}: {advice.format(path=path)}.")


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a data set, or splits of one, in the folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
