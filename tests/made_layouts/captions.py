"""Pictures with captions or reports, in lists and JSON."""

import base64
from pathlib import Path
from typing import Any

from made_shards import jpeg
from made_tables import write_json, write_lines

from made_layouts.base import Made, Said, asked, caption, put


def karpathy(folder: Path) -> Made:
    put(folder / "coco" / "val2014", 0, 1, 2, name="COCO_val2014_{:012d}.jpg")
    images = [
        {
            "filepath": "val2014", "filename": f"COCO_val2014_{n:012d}.jpg", "imgid": n, "cocoid": n, "split": split,
            "sentids": [2 * n, 2 * n + 1],
            "sentences": [{"tokens": ["a"], "raw": f"A photo {n}, {k}.", "sentid": 2 * n + k} for k in (0, 1)],
        }
        for n, split in enumerate(("train", "restval", "test"))
    ]  # fmt: skip
    table = write_json(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    splits = ("train", "train", "test")
    said = [caption(split, n, f"A photo {n}, {k}.") for n, split in enumerate(splits) for k in (0, 1)]
    return Made(table, said, 3, {"images": str(folder / "coco")})


def flickr30k_karpathy(folder: Path) -> Made:
    """Without folders in it."""
    put(folder, 3)
    image = {"filename": "3.jpg", "imgid": 0, "split": "val", "sentences": [{"raw": "A dog .", "tokens": ["a", "dog"]}]}
    table = write_json(folder / "dataset_flickr30k.json", {"images": [image], "dataset": "flickr30k"})
    return Made(table, [caption("val", 3, "A dog .")], 1)


def flickr30k_csv(folder: Path) -> Made:
    put(folder / "flickr30k_images", 1, 2)
    lines = [f'{n}.jpg| {k}|  "A" man, number {k} , of {n} .' for n in (1, 2) for k in range(3)]
    lines.insert(4, "2.jpg| 4   A row whose bar is lost .")
    table = folder / "results.csv"
    table.write_text("\n".join(["image_name| comment_number| comment", *lines, ""]))
    said = [caption(None, n, f'"A" man, number {k} , of {n} .') for n in (1, 2) for k in range(3)]
    return Made(table, said, 7, {"images": str(folder / "flickr30k_images")}, bad=1)


def flickr30k_token(folder: Path) -> Made:
    put(folder, 1, 2)
    table = folder / "results_20130124.token"
    table.write_text("".join(f"{n}.jpg#{k}\tA man, {k} of {n} .\n" for n in (1, 2) for k in range(2)))
    return Made(table, [caption(None, n, f"A man, {k} of {n} .") for n in (1, 2) for k in range(2)], 4)


def coco(folder: Path) -> Made:
    """An image without captions, one whose id stands twice, a caption of no image."""
    put(folder, 0, 1, 2, 3)
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in (0, 1, 2)] + [{"id": 1, "file_name": "3.jpg"}]
    notes = [{"image_id": n, "caption": f"photo {n}"} for n in (1, 0, 9)]
    table = write_json(folder / "captions_val2017.json", {"info": {}, "images": images, "annotations": notes})
    return Made(table, [caption(None, n, f"photo {n}") for n in (0, 1)], 5, bad=3)


def captions_by_name(folder: Path) -> Made:
    put(folder, 0, 1)
    table = write_json(folder / "captions.json", {"0.jpg": "A dog.", "1.jpg": ["A cat.", "A pet."]})
    said = [caption(None, 0, "A dog."), caption(None, 1, "A cat."), caption(None, 1, "A pet.")]
    return Made(table, said, 2)


def imageclef(folder: Path) -> Made:
    """VQA-Med's text files: bars, no names of columns."""
    put(folder, 0, 1, name="synpic{}.jpg")
    table = folder / "All_QA_Pairs_train.txt"
    table.write_text("".join(f"synpic{n}|is it {n}?|yes\n" for n in (0, 1)))
    options = {"columns": ("image_id", "question", "answer")}
    return Made(table, [asked(None, n, f"is it {n}?", "yes") for n in (0, 1)], 2, options)


def lavis(folder: Path) -> Made:
    put(folder / "coco" / "images", 0, 1)
    rows = [
        {"caption": "A man.", "image": "0.jpg", "image_id": "coco_0"},
        {"caption": "Another.", "image": "0.jpg", "image_id": "coco_0"},
        {"caption": ["One.", "Two."], "image": "1.jpg", "image_id": "coco_1"},
    ]
    table = write_json(folder / "coco_karpathy_train.json", rows)
    said = [caption(None, n, text) for n, text in ((0, "A man."), (0, "Another."), (1, "One."), (1, "Two."))]
    return Made(table, said, 3, {"images": str(folder / "coco" / "images")})


def aic(folder: Path) -> Made:
    put(folder / "caption_train_images_20170902", 1, name="{:04d}.jpg")
    row = {"url": "http://example.org/1", "image_id": "0001.jpg", "caption": ["一个人站在草地上", "草地上有人"]}
    table = write_json(folder / "caption_train_annotations_20170902.json", [row])
    said = [caption(None, 1, text) for text in row["caption"]]
    return Made(table, said, 1, {"images": str(folder / "caption_train_images_20170902")})


def clip_pair(folder: Path, split: str, numbers: tuple[int, ...]) -> list[str]:
    """A split of Chinese-CLIP's; each text is of two pictures. Texts as they are."""
    lines = [f"{1000 + n}\t{base64.urlsafe_b64encode(jpeg(n)).decode()}\n" for n in numbers]
    (folder / f"{split}_imgs.tsv").write_text("".join(lines))
    texts = [f"{split}的红色连衣裙", f"{split}的白色外套"]
    rows = [
        {"text_id": n, "text": text, "image_ids": [1000 + number for number in numbers]} for n, text in enumerate(texts)
    ]
    write_lines(folder / f"{split}_texts.jsonl", rows)
    return texts


def chinese_clip(folder: Path) -> Made:
    """The pair by names; a text is of a picture that is not there, one of none."""
    texts = clip_pair(folder, "train", (0, 1))
    with open(folder / "train_texts.jsonl", "a", encoding="utf-8") as out:
        out.write('{"text_id": 7, "text": "没有", "image_ids": [5]}\n{"text_id": 8, "text": "空", "image_ids": []}\n')
    return Made(folder / "train_imgs.tsv", [caption(None, n, text) for n in (0, 1) for text in texts], 4, bad=2)


def muge(folder: Path) -> Made:
    """A folder of its splits."""
    said = []
    for split, numbers in (("train", (0, 1)), ("valid", (2,))):
        texts = clip_pair(folder, split, numbers)
        said += [caption(split, n, text) for n in numbers for text in texts]
    return Made(folder, said, 3)


def r2gen(folder: Path) -> Made:
    said: list[Said] = []
    splits: dict[str, list[dict[str, Any]]] = {}
    for n, split in enumerate(("train", "train", "val", "test")):
        put(folder / "images" / f"CXR{n}", 2 * n, 2 * n + 1)
        report = f"The heart is normal. Number {n}."
        paths = [f"CXR{n}/{2 * n}.jpg", f"CXR{n}/{2 * n + 1}.jpg"]
        splits.setdefault(split, []).append({"id": f"CXR{n}", "report": report, "image_path": paths, "split": split})
        said.append((split, (2 * n, 2 * n + 1), "caption", report))
    table = write_json(folder / "annotation.json", splits)
    return Made(table, said, 4, {"images": str(folder / "images")})
