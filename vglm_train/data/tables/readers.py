"""Tables as people have them: where each row lies in its file, found in one pass, and the row there.

No row is kept: a JSON list is walked element by element through a window of its text (what VisualGLM's and LLaVA's
scripts load whole), a CSV record by record. A new file format is a class as `base.TableFile` and an entry in `FORMATS`,
a new data set in JSON, CSV or Parquet an entry in `layouts/rows.py`.
"""

import glob
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vglm_train.config.data import Format, Source
from vglm_train.data.shards.address import shards_of
from vglm_train.data.tables.base import RowReader, TableFile, TextFile
from vglm_train.data.tables.fields import known
from vglm_train.data.tables.file_kinds import is_saved
from vglm_train.data.tables.json_table import FIRST, JsonTable
from vglm_train.data.tables.layouts import chinese_clip
from vglm_train.data.tables.layouts.coco import open_coco
from vglm_train.data.tables.layouts.image_names import ImageNames, find_names
from vglm_train.data.tables.layouts.rows import TOKEN, AdaptedRows, AdaptedTable, find_data_set
from vglm_train.data.tables.layouts.tars import TarTable
from vglm_train.data.tables.layouts.vqa import open_vqa
from vglm_train.data.tables.separated import SeparatedTable
from vglm_train.errors import MissingData, UserError

ENDINGS: Mapping[str, Format] = {
    ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "csv", ".tsv": "tsv",
    ".tab": "tsv", ".token": "token", ".tar": "tar", ".parquet": "parquet",
}  # fmt: skip
ADDRESSES = ("url", "URL", "image_url", "img_url", "image_link", "link")
_JSON = re.compile(r'\s*(\[\s*)?\{\s*"')
_TOKEN = re.compile(r"[^\t]+#\d+\t")


class Options(NamedTuple):
    """How a file is to be read, where it does not tell itself. Fields as of `config.data.Source`."""

    encoding: str | None = None
    delimiter: str | None = None
    columns: tuple[str, ...] | None = None
    join: str | None = None


class FormatReader(NamedTuple):
    """`holds`: what a file of it is, in words; `options`: those of Options that it understands."""

    holds: str
    options: frozenset[str]
    open: Callable[[Path, Options], TableFile]


def open_source(source: Source) -> TableFile:
    """The table of a source, its rows with the usual keys. UserError where it cannot be read, or does not hold what its
    options say."""
    assert source.table is not None
    path = Path(source.table)
    file = open_table(path, source.format, source.encoding, source.delimiter, source.columns, source.join)
    if (data_set := find_data_set(file.columns, source.fields)) is not None:
        file = AdaptedTable(file, data_set)
    names = None if source.image_template is None else ImageNames(source.image_template)
    if names is None and source.fields.image is None:
        first = [row.values for row in islice(file.scan(), FIRST) if row.values is not None]
        names = find_names(Path(source.images) if source.images else folder_of(path), file.columns, first)
    file = file if names is None else AdaptedTable(file, names)
    if source.fields.image is None:
        _refuse_addresses(path, file.columns)
    return file


def adapt_stream(rows: RowReader, source: Source) -> RowReader:
    """Rows that are read once, with the usual keys. Of `source` only its name, fields and image_template count."""
    steps = [
        find_data_set(rows.columns, source.fields),
        None if source.image_template is None else ImageNames(source.image_template),
    ]
    for step in steps:
        rows = rows if step is None else AdaptedRows(rows, step)
    if source.fields.image is None:
        _refuse_addresses(source.table or source.name, rows.columns)
    return rows


def folder_of(path: Path) -> Path:
    """The folder that a table's paths of pictures start from where nobody names one."""
    return path if path.is_dir() else path.parent


def open_table(
    path: Path,
    format: Format | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    columns: tuple[str, ...] | None = None,
    join: str | None = None,
) -> TableFile:
    """The reader of a table as it is. `format` None: what it is, by its name and what is in it; the others as of
    `config.data.Source`. UserError where there is none, or no file."""
    if not path.exists() and not _named(path):
        raise MissingData(f"{path}: no such file; give the path of the table.")
    options = Options(encoding, delimiter, columns, join)
    name = format or find_format(path)
    reader = FORMATS[name]
    for option, given in options._asdict().items():
        if given is not None and option not in reader.options:
            takers = ", ".join(other for other, each in FORMATS.items() if option in each.options)
            raise UserError(f"{path}: is read as {name}, which has no {option}; it is for {takers}.")
    return reader.open(path, options)


def find_format(path: Path) -> Format:
    """The format of a table, by its name, and where that is not enough by how it begins."""
    if path.is_dir():
        return _format_of_folder(path)
    if not path.is_file():
        endings = {file.suffix.lower() for file in _named(path)}
        if endings in ({".tar"}, {".parquet"}):
            return ENDINGS[endings.pop()]
        what = f"its files are of several kinds: {', '.join(endings)}" if endings else "no such file"
        raise MissingData(f"{path}: {what}; give the path of the table.")
    named = ENDINGS.get(path.suffix.lower())
    if named in ("tar", "parquet"):
        return named
    text = TextFile(path)
    if named is None and not _JSON.match(text.head):
        raise UserError(f"{path}: no table that is known. Give format (--format), one of {list_formats()}")
    return _format_of_text(text, named)


def _format_of_text(text: TextFile, named: Format | None) -> Format:
    """A text file's format; `named`: what its name says."""
    if named in ("json", "jsonl", None) or _JSON.match(text.head):
        table = JsonTable(text.path, named == "jsonl")
        kind = table.shape.kind
        if kind in ("coco", "questions", "annotations"):
            return "coco" if kind == "coco" else "vqa"
        if kind in ("list", "lines", "objects") and {"text_id", "image_ids"} <= set(table.columns):
            return "chinese_clip"
        return "jsonl" if named == "jsonl" else "json"
    if chinese_clip.is_picture_lines(text.head):
        return "chinese_clip"
    return "token" if _TOKEN.match(text.head) else named


def _format_of_folder(folder: Path) -> Format:
    if is_saved(folder):
        return "saved"
    if (folder / "manifest.json").is_file():
        raise UserError(
            f"{folder}: a folder of packed shards, which is no table: give it as shards. (convert --format tar makes "
            "records of it again.)"
        )
    for ending in (".tar", ".parquet"):
        if files_of(folder, ending):
            return ENDINGS[ending]
    if any(folder.glob(f"*{chinese_clip.PICTURES}")):
        return "chinese_clip"
    raise UserError(
        f"{folder}: this folder is no table: it has no .tar, no .parquet, no *{chinese_clip.PICTURES} and nothing that "
        "`datasets` saved. Give the file with the rows; a folder of packed shards is given as shards."
    )


def files_of(path: Path, ending: str) -> list[Path]:
    """The files of a kind that a path names: itself, those of a pattern, or of a folder and the folders in it."""
    if path.is_dir():
        return sorted(path.glob(f"*{ending}")) or sorted(path.glob(f"*/*{ending}"))
    return [path] if path.is_file() else _named(path)


def _named(pattern: Path) -> list[Path]:
    """The files of a pattern, such as part-*.tar, or of a brace list, such as {000..099}.tar."""
    names = shards_of(str(pattern)) or [str(pattern)]
    return sorted(Path(file) for name in names for file in glob.glob(name))


def _open_csv(path: Path, options: Options) -> TableFile:
    return SeparatedTable(path, options.delimiter, options.encoding, options.columns)


def _open_token(path: Path, options: Options) -> TableFile:
    return AdaptedTable(SeparatedTable(path, "\t", options.encoding, ("image", "caption")), TOKEN)


def _open_clip(path: Path, options: Options) -> TableFile:
    if path.is_dir():
        return chinese_clip.open_folder(path, options.encoding)
    return chinese_clip.open_pair(path, _path(options.join), options.encoding)


def _open_parquet(path: Path, options: Options) -> TableFile:
    from vglm_train.data.tables.hf_dataset import open_parquet

    return open_parquet(path, files_of(path, ".parquet"))


def _open_saved(path: Path, options: Options) -> TableFile:
    from vglm_train.data.tables.hf_dataset import open_saved

    return open_saved(path)


def _path(join: str | None) -> Path | None:
    if join is not None and not Path(join).is_file():
        raise MissingData(f"{join}: no such file; join names the file with the other half of the table.")
    return None if join is None else Path(join)


def _reader(holds: str, options: str, open: Callable[[Path, Options], TableFile]) -> FormatReader:
    return FormatReader(holds, frozenset(options.split()), open)


FORMATS: Mapping[Format, FormatReader] = {
    "json": _reader(
        "a list of objects, or an object with one, with one for each split, or with objects under their ids",
        "encoding",
        lambda path, options: JsonTable(path, lines=False, encoding=options.encoding),
    ),
    "jsonl": _reader(
        "an object a line", "encoding", lambda path, options: JsonTable(path, lines=True, encoding=options.encoding)
    ),
    "csv": _reader("cells between commas, semicolons, bars or tabs", "encoding delimiter columns", _open_csv),
    "tsv": _reader("cells between tabs", "encoding delimiter columns", _open_csv),
    "token": _reader("NAME.jpg#0, a tab, a caption: Flickr8k, Flickr30k", "encoding", _open_token),
    "coco": _reader("COCO's images and captions", "encoding", lambda path, options: open_coco(path, options.encoding)),
    "vqa": _reader(
        "VQAv2's questions, with the annotations as join; OK-VQA",
        "encoding join",
        lambda path, options: open_vqa(path, _path(options.join), options.encoding),
    ),
    "chinese_clip": _reader(
        "pictures in base64, with the texts as join: Chinese-CLIP, MUGE", "encoding join", _open_clip
    ),
    "tar": _reader(
        "KEY.jpg with KEY.txt or KEY.json: img2dataset", "", lambda path, _: TarTable(path, files_of(path, ".tar"))
    ),
    "parquet": _reader("one Parquet file or several", "", _open_parquet),
    "saved": _reader("a folder that `datasets` saved", "", _open_saved),
}


def list_formats() -> str:
    """Every format with what it is."""
    return "; ".join(f"{name}: {reader.holds}" for name, reader in FORMATS.items()) + "."


def _refuse_addresses(where: Path | str, columns: Sequence[str]) -> None:
    """UserError where rows name their pictures by web address alone."""
    address = next((name for name in ADDRESSES if name in columns), None)
    if address and not any(known(what, columns) for what in ("image", "turns", "image_id")):
        raise UserError(
            f"{where}: its pictures are web addresses ({address!r}), which are not fetched here: download them, for "
            "instance with img2dataset, and give the folder of its tars."
        )
