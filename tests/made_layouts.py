"""Small data sets in the layouts that published ones have, each with what its rows say. Pictures are `made_shards`'."""

import base64
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from made_shards import jpeg
from made_tables import write_csv, write_json, write_lines

from vglm_train.config.data import Fields

Said = tuple[Any, ...]  # split or None, numbers of the pictures, "caption" and text, or "turns" and texts


@dataclass(frozen=True)
class Made:
    """`table`: the file or folder; `options`: of its source, besides; `said`: what its rows say, each caption by
    itself; `rows`, `bad`: how many there are, and of them that cannot be used."""

    table: Path
    said: list[Said]
    rows: int
    options: dict[str, Any] = field(default_factory=dict)
    bad: int = 0


def caption(split: str | None, picture: int, text: str) -> Said:
    return (split, (picture,), "caption", text)


def asked(split: str | None, picture: int, question: str, answer: str) -> Said:
    return (split, (picture,), "turns", question, answer)


def put(folder: Path, *numbers: int, name: str = "{}.jpg") -> None:
    """Pictures as files."""
    for number in numbers:
        path = folder / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))


def vqav2(folder: Path) -> Made:
    put(folder / "val2014", 42, 73, name="COCO_val2014_{:012d}.jpg")
    questions = [{"image_id": i, "question": f"What is it, {q}?", "question_id": q} for i, q in
                 ((42, 42001), (73, 73000), (42, 42000), (73, 73009))]  # fmt: skip
    answers = [{"answer": "red" if n else "blue", "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)]
    notes = [
        {
            "question_id": q, "image_id": q // 1000, "question_type": "what", "answer_type": "other",
            "multiple_choice_answer": "red", "answers": answers,
        }
        for q in (73000, 42000, 42001)
    ]  # fmt: skip
    info = {"info": {"year": 2015}, "data_type": "mscoco", "license": {}, "data_subtype": "val2014"}
    table = write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", info | {"questions": questions})
    join = write_json(folder / "v2_mscoco_val2014_annotations.json", info | {"annotations": notes})
    said = [asked(None, i, f"What is it, {q}?", "red") for i, q in ((42, 42001), (73, 73000), (42, 42000))]
    return Made(table, said, 4, {"join": str(join), "images": str(folder / "val2014")}, bad=1)


def okvqa(folder: Path) -> Made:
    """The same, the other way round, with a template."""
    put(folder, 7, name="sub/p{:06d}.jpg")
    questions = {"questions": [{"image_id": 7, "question": "Why?", "question_id": 1}], "task_type": "OpenEnded"}
    notes = [{"question_id": 1, "image_id": 7, "answers": [{"answer": "so", "raw_answer": "so", "answer_id": 1}]}]
    join = write_json(folder / "questions.json", questions)
    table = write_json(folder / "annotations.json", {"annotations": notes})
    options = {"join": str(join), "image_template": "sub/p{image_id:06d}.jpg"}
    return Made(table, [asked(None, 7, "Why?", "so")], 1, options)


def aokvqa(folder: Path) -> Made:
    put(folder / "coco", 9, name="{:012d}.jpg")
    row = {
        "split": "val", "image_id": 9, "question_id": "22jb", "question": "What is held?", "choices": ["cup", "pen"],
        "correct_choice_idx": 1, "direct_answers": ["pen"] * 7 + ["cup"] * 3, "rationales": ["It is."],
    }  # fmt: skip
    table = write_json(folder / "aokvqa_v1p0_val.json", [row])
    return Made(table, [asked("val", 9, "What is held?", "pen")], 1, {"images": str(folder / "coco")})


def gqa(folder: Path) -> Made:
    put(folder / "images", 1, 2)
    rows = {
        f"0{n}": {
            "semantic": [], "imageId": str(n), "question": f"Is it {n}?", "answer": "yes", "fullAnswer": "Yes, it is.",
            "isBalanced": True, "groups": {"global": None}, "types": {"structural": "verify", "semantic": "attr"},
        }
        for n in (1, 2)
    }  # fmt: skip
    table = write_json(folder / "val_balanced_questions.json", rows)
    return Made(table, [asked(None, n, f"Is it {n}?", "yes") for n in (1, 2)], 2, {"images": str(folder / "images")})


def textvqa(folder: Path) -> Made:
    put(folder / "train_images", 5)
    row = {
        "question": "What is written?", "image_id": "5", "image_classes": ["Sign"], "image_width": 40,
        "flickr_original_url": "https://example.org/5.jpg", "question_id": 34602, "answers": ["stop"] * 9 + ["step"],
        "question_tokens": ["what"], "set_name": "train",
    }  # fmt: skip
    table = write_json(folder / "TextVQA_0.5.1_train.json", {"dataset_type": "train", "data": [row]})
    said = [asked("train", 5, "What is written?", "stop")]
    return Made(table, said, 1, {"images": str(folder / "train_images")})


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


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def img2dataset(folder: Path) -> Made:
    """Two tars, with its tables and counts beside them; of one sample the text is lost, of one the picture."""
    import pyarrow
    import pyarrow.parquet

    said = []
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for n in range(3):
                key, number = f"{shard:05d}{n:04d}", 3 * shard + n
                meta = {"caption": f"photo {number}", "url": "https://example.org/1", "key": key, "status": "success"}
                if number != 0:
                    add(tar, f"{key}.txt", f"photo {number}".encode())
                if number != 4:
                    add(tar, f"{key}.JPG" if n else f"{key}.jpeg", jpeg(number))
                add(tar, f"{key}.json", json.dumps(meta if number else meta | {"caption": None}).encode())
                said += [caption(None, number, f"photo {number}")] if number not in (0, 4) else []
        rows = {"key": [f"{shard:05d}{n:04d}" for n in range(3)], "url": ["https://example.org/1"] * 3}
        pyarrow.parquet.write_table(
            pyarrow.table(rows | {"status": ["success"] * 3, "caption": ["x"] * 3}), folder / f"{shard:05d}.parquet"
        )
        (folder / f"{shard:05d}_stats.json").write_text('{"count": 3}')
    return Made(folder, said, 6, bad=2)


def one_tar(folder: Path) -> Made:
    made = img2dataset(folder)
    return Made(folder / "00001.tar", [said for said in made.said if said[1][0] >= 3], 3, bad=1)


def tars_by_pattern(folder: Path) -> Made:
    """Keys with dots, and splits in the files' names."""
    said = []
    for split, first in (("train", 0), ("val", 10)):
        with tarfile.open(folder / f"cc-{split}-00.tar", "w") as tar:
            for n in range(2):
                add(tar, f"./img.v1.{n}.jpg", jpeg(first + n))
                add(tar, f"./img.v1.{n}.txt", f"第{first + n}张照片".encode())
                said.append(caption(split, first + n, f"第{first + n}张照片"))
    return Made(folder / "cc-*.tar", said, 4)


def parquet(folder: Path) -> Made:
    """As the Hugging Face hub has PathVQA."""
    import pyarrow
    import pyarrow.parquet

    (folder / "data").mkdir()
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        images = [{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in numbers]
        rows = {"image": images, "question": [f"q{n}?" for n in numbers], "answer": ["yes"] * len(numbers)}
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    said = [asked(split, n, f"q{n}?", "yes") for split, n in (("test", 2), ("train", 0), ("train", 1))]
    return Made(folder, said, 3)


def img2dataset_files(folder: Path) -> Made:
    """img2dataset's table beside loose files."""
    import pyarrow
    import pyarrow.parquet

    put(folder / "00000", 0, 1, name="00000{:04d}.jpg")
    rows = {
        "url": ["https://example.org/1"] * 3, "key": ["000000000", "000000001", "000000002"],
        "status": ["success", "success", "failed_to_download"], "caption": ["photo 0", "photo 1", "photo 2"],
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "00000.parquet")
    return Made(folder / "00000.parquet", [caption(None, n, f"photo {n}") for n in (0, 1)], 3, bad=1)


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


def vqa_rad(folder: Path) -> Made:
    put(folder / "images", 0, 1, 2, name="synpic{}.jpg")
    rows = [
        {
            "qid": n, "phrase_type": phrase, "image_name": f"synpic{n}.jpg", "image_organ": "CHEST",
            "question": f"Is it {n}?", "question_rephrase": "NULL", "question_type": "PRES", "answer": "yes",
            "answer_type": "CLOSED",
        }
        for n, phrase in enumerate(("freeform", "para", "test_freeform"))
    ]  # fmt: skip
    table = write_json(folder / "VQA_RAD Dataset Public.json", rows)
    said = [asked(split, n, f"Is it {n}?", "yes") for n, split in enumerate(("train", "train", "test"))]
    return Made(table, said, 3, {"images": str(folder / "images")})


def slake(folder: Path) -> Made:
    put(folder / "imgs", 1, name="xmlab{}/source.jpg")
    common = {
        "img_id": 1,
        "img_name": "xmlab1/source.jpg",
        "location": "Abdomen",
        "modality": "MRI",
        "triple": ["v", "_", "_"],
    }
    rows = [
        common | {"question": "Which organ?", "answer": "Liver", "q_lang": "en", "answer_type": "OPEN", "qid": 1},
        common | {"question": "图中有肝吗？", "answer": "有", "q_lang": "zh", "answer_type": "CLOSED", "qid": 2},
    ]
    table = write_json(folder / "train.json", rows)
    said = [asked(None, 1, "Which organ?", "Liver"), asked(None, 1, "图中有肝吗？", "有")]
    return Made(table, said, 2, {"images": str(folder / "imgs")})


def llava(folder: Path) -> Made:
    put(folder / "coco", 0, 1, name="train2017/{}.jpg")
    rows = [
        {"id": str(n), "image": f"train2017/{n}.jpg", "conversations": [
            {"from": "human", "value": f"<image>\nWhat is {n}?"}, {"from": "gpt", "value": f"It is {n}."}]}
        for n in (0, 1)
    ]  # fmt: skip
    table = write_json(folder / "llava_instruct_150k.json", rows)
    said = [asked(None, n, f"<image>\nWhat is {n}?", f"It is {n}.") for n in (0, 1)]
    return Made(table, said, 2, {"images": str(folder / "coco")})


def llava_med(folder: Path) -> Made:
    put(folder / "images", 0)
    turns = [{"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A scan."}]
    row = {"id": "a", "image": "0.jpg", "domain": {"mri": True}, "conversatons": turns}
    table = write_json(folder / "llava_med_alignment_500k.json", [row])
    return Made(table, [asked(None, 0, "What is it?\n<image>", "A scan.")], 1, {"images": str(folder / "images")})


def swift(folder: Path) -> Made:
    put(folder, 0, 1)
    turns = [{"role": "user", "content": "<image><image>Same?"}, {"role": "assistant", "content": "No."}]
    table = write_lines(folder / "train.jsonl", [{"messages": turns, "images": ["0.jpg", "1.jpg"]}])
    return Made(table, [(None, (0, 1), "turns", "<image><image>Same?", "No.")], 1)


def sharegpt(folder: Path) -> Made:
    """Two turns, of which the first brings the picture."""
    put(folder, 3)
    said = ("<image>What is it?", "A scan.", "Of what?", "Of a knee.")
    turns = [{"from": role, "value": text} for role, text in zip(("human", "gpt") * 2, said)]
    table = write_json(folder / "sharegpt.json", [{"conversations": turns, "images": ["3.jpg"]}])
    return Made(table, [(None, (3,), "turns", *said)], 1)


def alpaca(folder: Path) -> Made:
    put(folder, 2)
    row = {"instruction": "<image>Describe it.", "input": "", "output": "A square.", "images": ["2.jpg"]}
    return Made(write_json(folder / "alpaca.json", [row]), [asked(None, 2, "<image>Describe it.", "A square.")], 1)


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


def pmc_vqa(folder: Path) -> Made:
    put(folder / "images", 0, name="PMC{}_F1.jpg")
    row = {
        "Figure_path": "PMC0_F1.jpg", "Question": "What is shown?", "Answer": "Liver", "Choice A": " A:Heart ",
        "Choice B": " B:Liver ", "Choice C": " C:Lung", "Choice D": " D:Bone", "Answer_label": "B",
    }  # fmt: skip
    table = write_csv(folder / "train.csv", [row])
    named = Fields(image="Figure_path", question="Question", answer="Answer")
    options = {"images": str(folder / "images"), "fields": named}
    return Made(table, [asked(None, 0, "What is shown?", "Liver")], 1, options)


def words(made: Made) -> list[str]:
    """The table and its options as a command line has them."""
    found = [str(made.table)]
    for name, value in made.options.items():
        if isinstance(value, Fields):
            named = {part.name: getattr(value, part.name) for part in fields(value)}
            found += [word for what, key in named.items() if key is not None for word in ("--field", f"{what}={key}")]
        else:
            found += [f"--{name.replace('_', '-')}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return found


LAYOUTS: dict[str, Callable[[Path], Made]] = {
    make.__name__: make
    for make in (
        vqav2, okvqa, aokvqa, gqa, textvqa, karpathy, flickr30k_karpathy, flickr30k_csv, flickr30k_token, img2dataset,
        one_tar, tars_by_pattern, parquet, img2dataset_files, r2gen, vqa_rad, slake, llava, llava_med, swift,
        sharegpt, alpaca, lavis,
        aic, chinese_clip, muge, coco, captions_by_name, imageclef, pmc_vqa,
    )
}  # fmt: skip
