"""Questions with answers."""

from pathlib import Path

from made_tables import write_csv, write_json

from made_layouts.base import Made, asked, put
from vglm_train.config.data import Fields


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
