"""Small benchmarks in the layouts of the published ones: the same names of files, keys and pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_layouts.base import put
from made_shards import jpeg
from made_tables import write_json

PEOPLE = 10
INFO = {"info": {"year": 2017}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
QUESTIONS = ("What is this?", "Is it a photo?", "Which number (a) is it?", "What colour is that: red?")


def coco_questions(folder: Path, answers: Sequence[Sequence[str]], questions: str, annotations: str) -> Path:
    """VQAv2's or OK-VQA's two files, a question for each of `answers`, two about each picture."""
    pictures = [42 + number // 2 for number in range(len(answers))]
    put(folder / "val2014", *dict.fromkeys(pictures), name="COCO_val2014_{:012d}.jpg")
    ids = [10 * picture + number % 2 for number, picture in enumerate(pictures)]
    asked = [
        {"image_id": picture, "question": QUESTIONS[number % len(QUESTIONS)], "question_id": ids[number]}
        for number, picture in enumerate(pictures)
    ]
    notes = [
        {
            "question_id": ids[number], "image_id": picture, "question_type": "what is" if number % 2 else "is it",
            "answer_type": "other" if number % 2 else "yes/no", "multiple_choice_answer": people[0],
            "answers": [
                {"answer": text, "raw_answer": text, "answer_confidence": "yes", "answer_id": n + 1}
                for n, text in enumerate(people)
            ],
        }
        for number, (picture, people) in enumerate(zip(pictures, answers))
    ]  # fmt: skip
    write_json(folder / questions, INFO | {"task_type": "Open-Ended", "questions": asked})
    write_json(folder / annotations, INFO | {"annotations": notes[::-1]})
    return folder


def vqav2(folder: Path, answers: Sequence[Sequence[str]]) -> Path:
    names = ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")
    return coco_questions(folder, answers, *names)


def server_questions(folder: Path, count: int) -> Path:
    """VQAv2's questions without answers."""
    put(folder / "test2015", *range(1, count + 1), name="COCO_test2015_{:012d}.jpg")
    asked = [{"image_id": n, "question": QUESTIONS[0], "question_id": 10 * n} for n in range(1, count + 1)]
    return write_json(folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json", INFO | {"questions": asked})


def okvqa(folder: Path, answers: Sequence[Sequence[str]]) -> Path:
    return coco_questions(folder, answers, "OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json")


def gqa(folder: Path, answers: Sequence[str]) -> Path:
    """The last question is not balanced."""
    put(folder / "images", *range(len(answers)), name="n{}.jpg")
    rows = {
        f"20{number}": {
            "semantic": [], "imageId": f"n{number}", "question": QUESTIONS[number % len(QUESTIONS)], "answer": answer,
            "fullAnswer": "Yes.", "isBalanced": number < len(answers) - 1, "groups": {"global": None, "local": "x"},
            "types": {"structural": "query" if number % 2 else "verify", "semantic": "attr", "detailed": "a"},
        }
        for number, answer in enumerate(answers)
    }  # fmt: skip
    write_json(folder / "testdev_balanced_questions.json", rows)
    return folder


def vqa_rad(folder: Path, rows: Sequence[tuple[str, Any, str]]) -> Path:
    """`rows`: question, answer and answer_type of each test question; one of training stands before them."""
    put(folder / "VQA_RAD Image Folder", *range(len(rows) + 1), name="synpic{}.jpg")
    given = [("Is it trained on?", "yes", "CLOSED"), *rows]
    made = [
        {
            "qid": str(number), "phrase_type": ("test_freeform", "test_para")[number % 2] if number else "freeform",
            "qid_linked_id": "x", "image_case_url": "https://example.org", "image_name": f"synpic{number}.jpg",
            "image_organ": "CHEST", "evaluation": "evaluated", "question": question, "question_rephrase": "NULL",
            "question_type": "PRES" if number % 2 else "SIZE", "answer": answer, "answer_type": kind,
        }
        for number, (question, answer, kind) in enumerate(given)
    ]  # fmt: skip
    write_json(folder / "VQA_RAD Dataset Public.json", made)
    return folder


def slake(folder: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    """The same; a Chinese question stands before them."""
    put(folder / "imgs", *range(len(rows) + 1), name="xmlab{}/source.jpg")
    given = [("图中有肝吗？", "有", "CLOSED"), *rows]
    made = [
        {
            "img_id": number, "img_name": f"xmlab{number}/source.jpg", "question": question, "answer": answer,
            "q_lang": "en" if number else "zh", "location": "Lung", "modality": "X-Ray", "answer_type": kind,
            "base_type": "vqa", "content_type": "Position", "triple": ["vhead", "_", "_"], "qid": 11934 + number,
        }
        for number, (question, answer, kind) in enumerate(given)
    ]  # fmt: skip
    write_json(folder / "test.json", made)
    return folder


def pathvqa(folder: Path, rows: Sequence[tuple[str, str]], parquet: bool) -> Path:
    """The hub's Parquet with its pictures inside, or the authors' list as JSON with files beside it."""
    folder.mkdir(exist_ok=True)
    if not parquet:
        put(folder / "images", *range(len(rows)), name="test_{:04d}.jpg")
        made = [
            {"answer": answer, "image": f"test_{number:04d}", "question": question}
            for number, (question, answer) in enumerate(rows)
        ]
        write_json(folder / "test_qa.json", made)
        return folder
    import pyarrow
    import pyarrow.parquet

    made = [
        {"image": {"bytes": jpeg(number), "path": None}, "question": question, "answer": answer}
        for number, (question, answer) in enumerate(rows)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), folder / "test-00000-of-00001.parquet")
    return folder


def karpathy(folder: Path, captions: Sequence[Sequence[str]], name: str = "coco_karpathy_test.json") -> Path:
    """LAVIS' list of pictures with their captions."""
    put(folder / "val2014", *range(100, 100 + len(captions)), name="COCO_val2014_{:012d}.jpg")
    rows = [
        {"image": f"val2014/COCO_val2014_{100 + number:012d}.jpg", "caption": list(texts)}
        for number, texts in enumerate(captions)
    ]
    write_json(folder / name, rows)
    return folder


def dataset_coco(folder: Path, captions: Sequence[Sequence[str]]) -> Path:
    """Karpathy's own file, with a picture to train on before the others."""
    put(folder / "val2014", *range(99, 100 + len(captions)), name="COCO_val2014_{:012d}.jpg")
    images = [
        {
            "filepath": "val2014", "filename": f"COCO_val2014_{99 + number:012d}.jpg", "cocoid": 99 + number,
            "imgid": number, "split": "test" if number else "train", "sentids": [0],
            "sentences": [{"tokens": text.split(), "raw": text, "imgid": number, "sentid": 0} for text in texts],
        }
        for number, texts in enumerate([["Trained on."], *captions])
    ]  # fmt: skip
    write_json(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return folder


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
