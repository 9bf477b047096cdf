"""Files that are no text, told from how they begin: each has its cause and a way out."""

from pathlib import Path

from vglm_train.errors import UserError

HEAD = 512  # bytes that are looked at
PICKLES = (".pkl", ".pickle", ".p", ".pt", ".pth")
PICKLE = (
    "is a pickle: to open it would run whatever program is in it, so it never is. Take the same data as JSON, CSV or "
    "Parquet (of PathVQA and others the Hugging Face hub has Parquet files with the pictures in them)"
)
BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "is compressed with gzip, in which no row can be read by itself; unpack it: gunzip -k {path}"),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard; unpack it: zstd -d -k {path}"),
    (b"BZh", "is compressed with bzip2; unpack it: bunzip2 -k {path}"),
    (b"\xfd7zXZ\0", "is compressed with xz; unpack it: unxz -k {path}"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it, and give the file that was in it"),
    (b"Rar!", "is a RAR archive; unpack it, and give the file that was in it"),
    (b"PAR1", "is a Parquet file; name it .parquet, or give format: parquet"),
    (b"ARROW1", "is an Arrow file; give the folder that `datasets` saved it in"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook; save it as CSV in UTF-8"),
    (b"\x89HDF", "is an HDF5 file; write its rows as JSONL"),
    (b"SQLite format 3", "is an SQLite data base; write its rows as JSONL"),
    (b"%PDF", "is a PDF"),
    (b"\x89PNG", "is a picture, no table"),
    (b"\xff\xd8\xff", "is a picture, no table"),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself: git lfs pull fetches it"),
)


def refuse_other_files(path: Path, head: bytes) -> None:
    """UserError where a file that should be a table in text is something else. `head`: how it begins."""
    found = next((what for start, what in BEGINNINGS if head.startswith(start)), None)
    web = head[:HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"PK\x03\x04"):
        workbook = path.suffix.lower() in (".xlsx", ".xlsm", ".ods")
        found = BEGINNINGS[8][1] if workbook else "is a zip archive; unpack it, and give the file that was in it"
    elif web.startswith((b"<!doctype", b"<html")):
        found = "is a web page, not the file: what should have been downloaded was not; download it again"
    elif path.suffix.lower() in PICKLES or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and head[1:2]):
        found = PICKLE
    elif is_tar(head):
        found = "is a tar; name it .tar, or give format: tar"
    if found is not None:
        raise UserError(f"{path}: {found.format(path=path)}.")


def is_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a tar, of a kind that says so."""
    return head[257:262] == b"ustar"


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a data set, or splits of one, in the folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
