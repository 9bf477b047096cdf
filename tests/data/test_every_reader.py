"""Every kind of picture through every reader: the same pixels, or the same cause with the same reason."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from made_dicom import make_dicom
from made_pictures import chunk, deep_png, encoded, png, tiff
from made_shards import TOKENS, write_manifest, write_shard
from numpy.typing import NDArray
from PIL import Image

from data_tools.check_shards.__main__ import run as check_shards
from data_tools.check_table.scan import scan_table
from data_tools.common.records import open_inputs, read_block
from data_tools.pack_shards.__main__ import pack
from data_tools.pack_shards.write import PackOptions
from data_tools.preview.__main__ import PreviewSample, validation_samples
from data_tools.preview.prompts import read_epoch
from vglm_train.config.data import Source
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.data.eval_captions import EvalItem, EvalSet
from vglm_train.data.eval_questions import EvalQuestion, QuestionSet
from vglm_train.data.loader import build
from vglm_train.data.processors import PairProcessor
from vglm_train.data.record import DamagedSample, RecordError
from vglm_train.data.rules import LanguageCheck
from vglm_train.data.tables.pictures import decode_fault
from vglm_train.data.tables.table import Table
from vglm_train.distributed import Ranks
from vglm_train.image import MAX_PIXELS, ImageError, eval_pixels, open_image
from vglm_train.image.decode import SEVERAL
from vglm_train.prompt.qformer_text import build_text

SIDE = 16  # of what the model sees
COLOURS = np.indices((24, 32)).transpose(1, 2, 0) @ np.array([[5, 3, 1], [2, 4, 7]]) % 256  # [h,w,3]
GREY = COLOURS[..., 0] // 16 * 16  # its highest level needs all bits of whatever it is spread over


class Kind(NamedTuple):
    """A file, and what is in it: levels [h,w,3] with a tolerance, or the words of why it cannot be used."""

    suffix: str
    data: bytes
    levels: NDArray | None = None
    tolerance: float = 0.0
    cause: str = ""
    words: str = ""


def good(suffix: str, data: bytes, levels: NDArray = COLOURS, tolerance: float = 0.0) -> Kind:
    return Kind(suffix, data, levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, -1), tolerance)


def bad(suffix: str, data: bytes, words: str, cause: str = "undecodable") -> Kind:
    return Kind(suffix, data, cause=cause, words=words)


def spread(largest: float, kind: str) -> NDArray:
    """The grey levels over another range; the lowest and the highest are its ends."""
    values = GREY / 255 * largest
    values[0, :2] = 0, largest
    return values.astype(kind)


def turned(image: Image.Image, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, kind, exif=exif)


def frames(image: Image.Image, kind: str, **options: object) -> bytes:
    return encoded(image, kind, save_all=True, append_images=[Image.new("RGB", image.size, "red")] * 2, **options)


@cache
def kinds() -> dict[str, Kind]:
    picture, lossless = Image.fromarray(COLOURS.astype(np.uint8)), {"lossless": True}
    few, wide, clear = picture.quantize(16), Image.new("RGB", (3000, 1), "red"), Image.new("RGBA", (9, 9), (9, 9, 9, 0))
    ends = np.where(np.indices(GREY.shape).sum(0) == 0, 0, GREY)
    ends[0, :2] = 0, 255
    half = Image.new("RGBA", picture.size, (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 16, 24))
    blue = np.full((24, 32, 3), 255)
    blue[:, :16] = 0, 0, 255
    deep, windowed = spread(4095, "u2"), {"WindowCenter": 2048, "WindowWidth": 4096}
    colour = np.repeat(deep[..., None], 3, -1)
    nan = spread(1, "f4")
    nan[3, 3] = np.nan
    side = int(MAX_PIXELS**0.5) + 1
    jpeg, as_png, as_tiff, as_gif = (encoded(picture, kind) for kind in ("JPEG", "PNG", "TIFF", "GIF"))
    few_rgb = np.asarray(few.convert("RGB"))
    return {
        "JPEG": good("jpg", jpeg, tolerance=12),
        "JPEG, progressive": good("JPG", encoded(picture, "JPEG", progressive=True), tolerance=12),
        "JPEG, grey": good("jpeg", encoded(Image.fromarray(GREY.astype(np.uint8)), "JPEG", quality=95), GREY, 8),
        "JPEG, CMYK": good("jpe", encoded(picture.convert("CMYK"), "JPEG", quality=95), tolerance=12),
        "JPEG on its side": good("Jpeg", turned(picture, "JPEG"), np.rot90(COLOURS, -1), 12),
        "JPEG with bytes behind it": good("jfif", jpeg + bytes(200), tolerance=12),
        "PNG": good("png", as_png),
        "PNG that is called JPEG": good("jpg", as_png),
        "PNG, palette": good("png", encoded(few, "PNG"), few_rgb),
        "PNG, one bit": good("png", png(8, 1, 1, 0, b"\0\xa5"), np.array([[255, 0, 255, 0, 0, 255, 0, 255]])),
        "PNG, transparent": good("PNG", encoded(half, "PNG"), blue),
        "PNG, grey of 16 bits": good("png", deep_png(spread(65535, "u2")), ends, 1),
        "PNG, 12 bits in 16": good("png", deep_png(deep), ends, 1),
        "PNG, 12 bits in 16 that it gives": good("png", deep_png(deep, chunk(b"sBIT", b"\x0c")), ends, 1),
        "PNG, colour of 12 bits in 16": good("png", deep_png(colour), ends, 1),
        "PNG, animated": good("png", frames(picture, "PNG")),
        "PNG of 1 x 1": good("png", encoded(picture.crop((0, 0, 1, 1)), "PNG"), COLOURS[:1, :1]),
        "PNG of 3000 x 1": good("png", encoded(wide, "PNG"), np.full((1, 3000, 3), (255, 0, 0))),
        "WebP": good("webp", encoded(picture, "WEBP", **lossless)),
        "WebP, animated": good("WEBP", frames(picture, "WEBP", **lossless)),
        "GIF": good("gif", encoded(few, "GIF"), few_rgb),
        "GIF, animated": good("GIF", frames(few.convert("RGB"), "GIF"), few_rgb),
        "TIFF": good("tif", as_tiff),
        "TIFF on its side": good("TIFF", turned(picture, "TIFF"), np.rot90(COLOURS, -1)),
        "TIFF of pages": good("tif", frames(picture, "TIFF")),
        "TIFF, CMYK": good("tif", encoded(picture.convert("CMYK"), "TIFF"), tolerance=2),
        "TIFF, packed": good("tif", encoded(picture, "TIFF", compression="tiff_lzw")),
        "TIFF, 16 bits": good("Tif", tiff(spread(65535, "u2"), ">"), ends, 1),
        "TIFF, 12 bits in 16": good("tiff", tiff(deep), ends, 1),
        "TIFF, white as 0": good("tiff", tiff(deep, t262=0), 255 - ends, 1),
        "TIFF, colour of 12 bits in 16": good("tiff", tiff(colour, deflate=True), ends, 1),
        "TIFF, signed": good("tiff", tiff(spread(4000, "i2") - np.int16(1024)), ends, 1),
        "TIFF, 32 bits": good("tiff", tiff(spread(65535, "u4")), ends, 1),
        "TIFF, floats from 0 to 1": good("tiff", tiff(spread(1, "f4")), ends, 1),
        "TIFF, other floats": good("tiff", tiff(spread(20, "f4") - np.float32(3)), ends, 1),
        "TIFF, one float": good("tiff", tiff(np.full((9, 9), 7, "f4")), np.zeros((9, 9))),
        "BMP": good("bmp", encoded(picture, "BMP")),
        "BMP that is called JPEG": good("jpg", encoded(picture, "BMP")),
        "AVIF": good("avif", encoded(picture, "AVIF", quality=100, subsampling="4:4:4"), tolerance=3),
        "PPM": good("ppm", encoded(picture, "PPM")),
        "PGM of 12 bits": good("pgm", b"P5 32 24 4095\n" + deep.astype(">u2").tobytes(), ends, 1),
        "nothing": bad("jpg", b"", "an empty file (0 bytes)"),
        "zeros": bad("jpg", bytes(2000), "zero bytes alone"),
        "HTML": bad("jpg", b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>", "a web page (HTML)"),
        "XML": bad("jpg", b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "an XML document"),
        "JSON": bad("jpg", b'{"error": "no such picture"}', "JSON"),
        "text": bad("jpg", "没有图片 not a picture".encode(), "text, '没有图片 not a picture'"),
        "base64": bad("jpg", b"iVBORw0KGgoAAAANSUhEUgAA", "a picture as base64 text"),
        "SVG": bad("png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        "DICOM of 12 bits": good("dcm", make_dicom(deep, bits=12), ends, 1),
        "DICOM with a window": good("DCM", make_dicom(deep, windowed, bits=12), ends, 1),
        "DICOM on its side": good("dcm", make_dicom(deep, {"PatientOrientation": ["F", "L"]}, bits=12), ends.T, 1),
        "DICOM, cut": bad("dcm", make_dicom(deep)[:-9], "DICOM that is cut short"),
        "DICOM without pixels": bad("png", bytes(128) + b"DICM\2\0\0\0UL\4\0" + bytes(60), "DICOM"),
        "PDF": bad("jpg", b"%PDF-1.7\n" + bytes(60), "a PDF"),
        "gzip": bad("tif", gzip.compress(as_tiff), "gzip data"),
        "zip": bad("jpg", b"PK\3\4" + bytes(60), "a zip archive"),
        "Git LFS": bad("jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        "HEIC": bad("jpg", b"\0\0\0\x18ftypheic" + bytes(60), "a HEIC picture"),
        "video": bad("gif", b"\0\0\0\x18ftypisom" + bytes(60), "a video"),
        "NumPy": bad("png", b"\x93NUMPY\1\0" + bytes(60), "a NumPy array"),
        "no known bytes": bad("jpg", bytes(range(1, 99)), "of no known kind (it begins with 01 02 03"),
        "JPEG, cut": bad("jpg", jpeg[: len(jpeg) * 2 // 3], "a JPEG picture that is cut short"),
        "JPEG, its start alone": bad("jpg", jpeg[:30], "a JPEG picture that is cut short"),
        "PNG, cut": bad("png", as_png[: len(as_png) // 2], "a PNG picture that is cut short"),
        "TIFF, cut": bad("tif", as_tiff[:300], "a TIFF picture that is"),
        "GIF, cut": bad("gif", as_gif[: len(as_gif) // 2], "a GIF picture that is cut short"),
        "TIFF, not finite": bad("tif", tiff(nan), "NaN or infinite"),
        "TIFF, 64-bit floats": bad("tif", tiff(spread(1, "f8")), "floats of 64 bits"),
        "PNG, all transparent": bad("png", encoded(clear, "PNG"), "transparent everywhere"),
        "PNG without width": bad("png", png(0, 5, 8, 0, b""), "its header gives no size"),
        "bomb": bad("png", png(side, side, 1, 0, b""), f"{MAX_PIXELS:,} at most are read", "bomb"),
        "large bomb": bad("png", png(3 * side, side, 1, 0, b""), f"{MAX_PIXELS:,} at most are read", "bomb"),
    }  # fmt: skip


NAMES = list(kinds())
BAD = [name for name in NAMES if kinds()[name].levels is None]
Outcome = torch.Tensor | tuple[str, str]  # pixels [3,SIDE,SIDE]; cause as training counts it, reason


@pytest.mark.parametrize("name", NAMES)
def test_the_decoder(name: str) -> None:
    """Against what was put into the file, not against another decoder."""
    kind = kinds()[name]
    if kind.levels is None:
        cause, reason = expected(name)
        assert cause == ("bomb" if kind.cause == "bomb" else "image")
        assert reason.startswith(f"{kind.cause}: ")
        assert kind.words in reason
        assert "0x" not in reason
        return
    found = np.asarray(open_image(kind.data)).astype(int)
    assert found.shape == kind.levels.shape
    assert np.abs(found - kind.levels).mean() <= kind.tolerance


def expected(name: str) -> Outcome:
    try:
        return eval_pixels(open_image(kinds()[name].data), SIDE)
    except ImageError as error:
        return "bomb" if error.cause == "bomb" else "image", str(error)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures as files, as a table, as records and in a tar, and a run over each."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", "utf-8")
    samples, rows, records = [], [], []
    for number, (name, kind) in enumerate(kinds().items()):
        file = f"{number:03d}.{kind.suffix}"
        (folder / file).write_bytes(kind.data)
        record = {"id": name, "image_id": number, "captions": {"en": ["a photo"]}}
        samples.append({"__key__": f"{number:03d}", kind.suffix: kind.data, "json": json.dumps(record).encode()})
        records.append(json.dumps({**record, "image": file}) + "\n")
        rows.append({"image": file, "question": "what?", "answer": "a photo"})
    (folder / "shards").mkdir()
    write_shard(folder / "shards" / "a.tar", samples)
    write_manifest(folder / "shards", {"a.tar": len(samples)})
    (folder / "table.json").write_text(json.dumps(rows))
    (folder / "records.jsonl").write_text("".join(records))
    pack(folder / "records.jsonl", folder / "packed", PackOptions(None, 1000, None))
    return folder


def config(made: Path, source: str) -> Config:
    run = made / "run.yaml"
    run.write_text(f"""
run: {{name: try, length: {{steps: 10}}}}
model:
  vision: {{image_size: {SIDE}, patch: 8, width: 32, depth: 1, heads: 2, mlp_width: 64, dtype: fp32}}
  qformer: {{layers: 2, width: 32, heads: 2, mlp_width: 64}}
  text: {{tokenizer: {made / "vocab.txt"}, processor: plain, max_length: 8}}
data:
  train: [{{name: a, {source}}}]
  validation: [{{name: a, {source}}}]
  languages: [en]
  global_batch: {len(NAMES)}
  workers: 0
  image: {{crop_scale: [1.0, 1.0], flip: false}}
optim: {{warmup: {{steps: 2}}}}
""")
    return load(run)


def damage(found: DamagedSample) -> Outcome:
    return found.cause, found.reason


def stream(made: Path) -> dict[str, Outcome]:
    """As training reads it; its count of damage is that of its batches."""
    settings = config(made, f"shards: {made / 'shards'}")
    processor = PairProcessor(build_text(settings.model.text, ("en",)), ("en",))
    found: dict[str, Outcome] = {}
    for each in read_epoch(settings, processor, 0):
        if isinstance(each, DamagedSample):
            found[NAMES[int(each.key)]] = damage(each)
        else:
            found[NAMES[each[1].image_id]] = each[1].pixels[0]
    batch = next(build(settings, processor, Ranks()).batches(0))
    assert batch.damaged == Counter(each[0] for each in found.values() if isinstance(each, tuple))
    return found


def stream_of_a_table(made: Path) -> dict[str, Outcome]:
    source = Source(name="t", table=str(made / "table.json"))
    items = QuestionSet([source], SIDE, ("en",))
    found: dict[str, Outcome] = {}
    for number in range(len(items)):
        item = items[number]
        found[NAMES[number]] = item.pixels[0] if isinstance(item, EvalQuestion) else damage(item)
    return found


def evaluation(made: Path) -> dict[str, Outcome]:
    items = EvalSet([Source(name="s", shards=str(made / "shards"))], SIDE, ("en",))
    found = {name: items[number] for number, name in enumerate(NAMES)}
    return {name: each.pixels if isinstance(each, EvalItem) else damage(each) for name, each in found.items()}


def packed(made: Path) -> dict[str, Outcome]:
    items = EvalSet([Source(name="s", shards=str(made / "packed"))], SIDE, ("en",))
    found: dict[str, Outcome] = {}
    for item in items:
        found[NAMES[item.image_id]] = item.pixels
    for line in (made / "packed" / "skipped.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        reason = entry["message"].split(f"{entry['line'] - 1:03d}.", 1)[1].partition(": ")[2]
        found[entry["id"]] = "bomb" if entry["cause"] == "bomb" else "image", f"{entry['cause']}: {reason}"
    return found


def records(made: Path) -> dict[str, Outcome]:
    """What stats, filter, dedupe and caption read."""
    found: dict[str, Outcome] = {}
    for block in open_inputs([made / "records.jsonl"], 1000).blocks:
        for item in read_block(block):
            try:
                found[item.id] = eval_pixels(item.picture(), SIDE)
            except RecordError as error:
                found[item.id] = "bomb" if error.cause == "bomb" else "image", str(error)
    return found


def preview(made: Path) -> dict[str, Outcome]:
    settings = config(made, f"shards: {made / 'shards'}")
    text = build_text(settings.model.text, ("en",))
    found: dict[str, Outcome] = {}
    for each in validation_samples(settings, text):
        if isinstance(each, PreviewSample):
            found[NAMES[each.image_id]] = each.pixels
        else:
            found[NAMES[int(each.key)]] = damage(each)
    return found


READERS: list[Callable[[Path], dict[str, Outcome]]] = [stream, stream_of_a_table, evaluation, packed, records, preview]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_every_reader_gives_the_same(made: Path, reader: Callable[[Path], dict[str, Outcome]]) -> None:
    found = reader(made)
    assert sorted(found) == sorted(NAMES)
    for name in NAMES:
        want, got = expected(name), found[name]
        if isinstance(want, torch.Tensor):
            assert isinstance(got, torch.Tensor), (name, got)
            assert torch.equal(got, want), name
        else:
            assert got == want, name


def test_check_shards_says_the_same(made: Path) -> None:
    summary = check_shards(made / "shards", workers=1)
    found = {NAMES[int(entry["key"])]: (entry["cause"], entry["reason"]) for entry in summary["damaged"]}
    assert found == {name: expected(name) for name in BAD}
    assert summary["inferred"] == notes()
    assert check_shards(made / "packed", workers=1)["damage"] == {}


def fault_of(name: str) -> str:
    """Why a table cannot use the picture."""
    try:
        open_image(kinds()[name].data)
    except ImageError as error:
        return decode_fault(error)
    raise AssertionError(f"{name} can be decoded")


def test_check_table_says_the_same(made: Path) -> None:
    table = Table(Source(name="t", table=str(made / "table.json")))
    scan = scan_table(table, LanguageCheck(("en", "zh")), workers=1)
    assert [NAMES[row] for row in np.flatnonzero(~scan.usable)] == BAD
    rows = [int(name.removeprefix("row ")) for name in scan.names]  # with DICOM among them, pictures are called so
    reasons = {NAMES[rows[n] - 1]: each.damage for n, each in scan.pictures.known.items()}
    assert {name: reasons[name] for name in BAD} == {name: fault_of(name) for name in BAD}
    assert Counter(note for each in scan.pictures.known.values() for note in each.notes) == notes()


def test_pack_shards_tells_what_it_inferred(made: Path) -> None:
    manifest = json.loads((made / "packed" / "manifest.json").read_text())
    assert manifest["inferred"] == notes()
    assert manifest["skipped"] == Counter(kinds()[name].cause for name in BAD)


def notes() -> dict[str, int]:
    """What has to be inferred in all of these files together."""
    return {
        "16-bit values, range found 16 bits": 2,
        "16-bit values, range found 12 bits": 5,
        "16-bit values, range found smallest to largest value": 1,
        "16-bit values, range as the file says 12 bits": 1,
        "16-bit values, range as the file says 16 bits": 1,
        "32-bit values, range found 16 bits": 1,
        "float values, range found 0 to 1": 1,
        "float values, range found smallest to largest value": 2,
        "DICOM, range found smallest to largest value": 1,
        "DICOM, range found smallest to largest value; turned by the patient's position": 1,
        "DICOM, window as the file says": 1,
        SEVERAL: 4,
    }
