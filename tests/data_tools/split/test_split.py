"""Records by patient: nobody is on two sides, whatever the order, and what is said twice is said once."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_tools.split import __main__ as split
from data_tools.split.divide import SIDES
from vglm_train.errors import UserError


def record(number: int, group: str | None, picture: int | None = None, text: str = "a lung") -> dict[str, Any]:
    shown = number if picture is None else picture
    named = {} if group is None else {"group": group}
    return {"id": f"r{number}", "image": f"p/{shown}.png", "image_id": shown, "captions": {"en": [text]}, **named}


def run(folder: Path, records: list[dict[str, Any]], *words: str) -> dict[str, list[dict[str, Any]]]:
    """Side -> its records."""
    (folder / "records.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records), "utf-8")
    assert split.main([str(folder / "records.jsonl"), "--out", str(folder / "out"), *words]) == 0
    lines = {side: (folder / "out" / f"{side}.jsonl").read_text("utf-8").splitlines() for side in SIDES}
    return {side: [json.loads(line) for line in held] for side, held in lines.items()}


def test_every_patient_is_on_one_side(tmp_path: Path) -> None:
    records = [record(number, f"patient {number // 3}", text=f"a lung {number}") for number in range(60)]
    sides = run(tmp_path, records)
    patients = {side: {each["group"] for each in held} for side, held in sides.items()}
    assert [len(patients[side]) for side in SIDES] == [13, 2, 5]
    assert set.union(*patients.values()) == {each["group"] for each in records}
    assert sum(map(len, sides.values())) == 60
    assert all(each["split"] == side for side, held in sides.items() for each in held)
    first = sides["test"][0]
    assert (tmp_path / "out" / first["image"]).resolve() == tmp_path.resolve() / "p" / f"{first['image_id']}.png"


def test_the_order_of_records_does_not_matter(tmp_path: Path) -> None:
    records = [record(number, f"patient {number}") for number in range(20)]
    sides = run(tmp_path, records)
    again = run(tmp_path, records[::-1])
    for side in SIDES:
        assert {each["id"] for each in sides[side]} == {each["id"] for each in again[side]}


def test_the_folder_does_not_matter(tmp_path: Path) -> None:
    records = [record(number, f"patient {number}") for number in range(20)]
    sides = []
    for name in ("a", "z"):
        (tmp_path / name).mkdir()
        sides.append({side: [each["id"] for each in held] for side, held in run(tmp_path / name, records).items()})
    assert sides[0] == sides[1]


def test_patients_that_share_a_picture_stay_together(tmp_path: Path) -> None:
    """A chain: each shares a picture with the next."""
    chain = [record(n, f"chained {n // 2}", picture=(n + 1) // 2, text=f"seen {n}") for n in range(20)]
    others = [record(100 + n, f"other {n}") for n in range(8)]
    sides = run(tmp_path, [*chain, *others])
    assert sum(any(each["group"].startswith("chained") for each in held) for held in sides.values()) == 1


def test_what_is_repeated_joins_its_patients(tmp_path: Path) -> None:
    """One person under two numbers: the repeated record is left out, and both numbers stand on one side."""
    one = [record(0, "number a", picture=0), record(1, "number b", picture=0)]
    more = [record(10 + n, group, text=f"seen {n}") for n, group in enumerate(("number a", "number b") * 2)]
    others = [record(100 + n, f"other {n}") for n in range(9)]
    sides = run(tmp_path, [*one, *more, *others])
    again = run(tmp_path, [*one, *more, *others][::-1])
    assert sum(any(each["group"].startswith("number") for each in held) for held in sides.values()) == 1
    for side in SIDES:
        assert {each["group"] for each in sides[side]} == {each["group"] for each in again[side]}


def test_what_is_repeated_is_left_out(tmp_path: Path, capsys: Any) -> None:
    records = [record(number, f"patient {number}") for number in range(6)]
    records += [record(10, "patient 0", picture=0), record(11, "patient 0", picture=0, text="something else")]
    sides = run(tmp_path, records)
    assert {each["id"] for held in sides.values() for each in held} == {*(f"r{n}" for n in range(6)), "r11"}
    assert "left out: 1 records" in capsys.readouterr().out


def test_pictures_stand_for_patients_that_nobody_names(tmp_path: Path, capsys: Any) -> None:
    run(tmp_path, [record(number, None) for number in range(8)])
    assert "note: 8 records name no patient" in capsys.readouterr().out


def test_too_few_patients(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 patients .* bring more, or lower --val and --test"):
        run(tmp_path, [record(0, "a"), record(1, "b")])
    assert not (tmp_path / "out").exists()


def test_a_line_that_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"records\.jsonl line 2: .*make the file anew with vglm data convert"):
        run(tmp_path, [record(0, "a"), {"image": "p/1.png", "captions": {}}, record(2, "c")])


@pytest.mark.parametrize("share", ["0", "1", "1.5"])
def test_a_share_that_is_none(share: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, [record(0, "a")], "--test", share)
