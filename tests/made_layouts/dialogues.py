"""Dialogues."""

from pathlib import Path

from made_tables import write_json, write_lines

from made_layouts.base import Made, asked, put


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
