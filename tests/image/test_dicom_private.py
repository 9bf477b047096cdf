"""Salts, hashes, lists of tags, and the guess about text in corners."""

import io
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from made_dicom import PLANTED, make_dicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread

from vglm_train.errors import UserError
from vglm_train.image.dicom.private import Salt, default_salt, open_salt, tags_of
from vglm_train.image.dicom.text import has_corner_text


def test_a_salt_is_made_once_and_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "salt"
    with ThreadPoolExecutor(8) as pool:
        hashes = set(pool.map(lambda _: open_salt(path).hash("patient", "4711"), range(16)))
    assert len(hashes) == 1
    assert hashes == {open_salt(path).hash("patient", "4711")}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["salt"]
    assert open_salt(tmp_path / "other").hash("patient", "4711") not in hashes


def test_the_salt_of_a_user_lies_with_the_users_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    open_salt(None)
    assert default_salt() == tmp_path / "vglm_train" / "dicom_salt"
    assert default_salt().is_file()


def test_a_file_that_is_no_salt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("secret")
    with pytest.raises(UserError, match="a salt is 32 random bytes, and this has 6"):
        open_salt(tmp_path / "short")
    with pytest.raises(UserError, match="cannot be read or made"):
        open_salt(tmp_path / "short" / "salt")


def test_hashes_tell_kinds_and_values_apart() -> None:
    salt = Salt(bytes(32))
    assert len({salt.hash("patient", "1"), salt.hash("patient", "2"), salt.hash("id", "1")}) == 3
    assert salt.uid("1.2.3").startswith("2.25.")
    assert len(salt.uid("1.2.3")) <= 64
    assert salt.uid("1.2.3") != salt.uid("1.2.4")
    dataset = dcmread(io.BytesIO(make_dicom(np.zeros((2, 2), np.uint8))))
    own = salt.patient(dataset)
    dataset.PatientID = f" {dataset.PatientID} "
    assert salt.patient(dataset) == own
    dataset.IssuerOfPatientID = "another hospital"
    assert salt.patient(dataset) not in (own, None)
    dataset.PatientID = ""
    assert salt.patient(dataset) is None


def test_tags_are_listed_without_values() -> None:
    found = tags_of(dcmread(io.BytesIO(make_dicom(np.zeros((2, 2), np.uint8)))))
    assert found["(0010,0010) PatientName"] == 1
    assert found["(0040,1001) RequestedProcedureID"] == 1, "within a sequence"
    assert found["(0019,xx01) private"] == 1
    assert [word for word in PLANTED if word in str(found)] == []


def body(height: int = 512, width: int = 512) -> NDArray[np.float64]:
    """Something round and noisy on dark ground, as a picture of a body is."""
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    noise = np.random.default_rng(3).normal(0, 6, (height, width))
    return np.clip(200 * np.exp(-2 * (rows**2 + columns**2)) + noise + 10, 0, 230)


@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
@pytest.mark.parametrize("size", [(512, 512), (1024, 800)])
@pytest.mark.parametrize("ink", [255, 0])
def test_a_name_in_a_corner_is_found(corner: str, size: tuple[int, int], ink: int) -> None:
    height, width = size
    values = body(height, width) if ink else 250 - body(height, width)
    image = Image.fromarray(values.astype(np.uint8)).convert("RGB")
    assert not has_corner_text(image)
    down, across = corner.split()
    place = (5 if across == "left" else width - 190, 8 if down == "top" else height - 30)
    ImageDraw.Draw(image).text(place, "WANG XIAOMING 1961", fill=(ink,) * 3, font=ImageFont.load_default(18))
    assert has_corner_text(image)


def test_what_is_no_line_of_text_is_not_called_one() -> None:
    noise = np.random.default_rng(1)
    marker = Image.fromarray(body().astype(np.uint8)).convert("RGB")
    ImageDraw.Draw(marker).text((440, 20), "L", fill=(255,) * 3, font=ImageFont.load_default(40))
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    pictures = {
        "a marker of one letter": marker,
        "noise": Image.fromarray(noise.integers(0, 256, (256, 256), dtype=np.uint8)),
        "stripes": Image.fromarray(stripes),
        "one colour": Image.new("RGB", (64, 64), "white"),
        "one pixel": Image.new("RGB", (1, 1), "white"),
        "a frame": Image.fromarray(np.pad(np.zeros((250, 250), np.uint8), 3, constant_values=255)),
        "a slope": Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))),
    }
    assert [name for name, image in pictures.items() if has_corner_text(image)] == []
