"""Pictures as strangers send them: the declared type must be what the bytes say, and limits hold before decoding."""

import base64

import numpy as np
import pytest
from made_dicom import PLANTED, make_dicom
from made_pictures import encoded
from PIL import Image

from vglm_train.chat.intake import Intake, TooLarge
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError
from vglm_train.image import ImageLimits

PNG = encoded(Image.new("RGB", (8, 6), "red"), "PNG")
TEXT = base64.b64encode(PNG).decode()


def test_a_data_url_is_read():
    intake = Intake()
    for head in ("data:image/png;base64,", "DATA:Image/PNG;charset=utf-8;base64,"):
        assert intake.read_data_url(head + TEXT) == PNG
    assert intake.read_base64(TEXT[:20] + "\n" + TEXT[20:] + "\n") == PNG
    jpeg = encoded(Image.new("RGB", (8, 6)), "JPEG")
    assert intake.read_data_url("data:image/jpg;base64," + base64.b64encode(jpeg).decode()) == jpeg


def test_a_dicom_is_taken_as_what_it_is():
    data = make_dicom(np.arange(12, dtype=np.uint16).reshape(3, 4))
    text = base64.b64encode(data).decode()
    assert Intake().read_data_url("data:application/dicom;base64," + text) == data
    with pytest.raises(UserError, match="image/png is declared, but it is DICOM"):
        Intake().read_data_url("data:image/png;base64," + text)
    with pytest.raises(TooLarge, match="more than 2 frames"):
        Intake(image=ImageLimits(frames=2)).check(make_dicom(np.zeros((3, 4, 4), np.uint8), {"NumberOfFrames": 3}))
    with pytest.raises(UserError, match="DICOM without pixels: 2 x 0") as error:
        Intake().check(make_dicom(np.zeros((2, 2), np.uint8), {"Rows": 0}), "the picture")
    assert [word for word in PLANTED if word in str(error.value)] == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"data:image/jpeg;base64,{TEXT}", "picture 2: image/jpeg is declared, but it is a PNG picture"),
        (f"data:text/html;base64,{TEXT}", "'text/html' is declared; what is read is JPEG"),
        (f"data:image/svg+xml;base64,{TEXT}", "'image/svg.xml' is declared"),
        (f"data:;base64,{TEXT}", "'no type' is declared"),
        (f"data:image/png,{TEXT}", "must begin with data:image/TYPE;base64"),
        (f"data:image/png;base64;utf8,{TEXT}", "must begin with"),
        ("data:image/png;base64,PHN2Zz48L3N2Zz4=", "an SVG drawing"),
        ("data:image/png;base64,*", "no base64"),
        ("data:image/png;base64,ＡＡＡＡ", "no base64"),
        ("data:image/png;base64,", "an empty file"),
        ("file:///etc/passwd", "must begin with"),
        ("/etc/passwd", "must begin with"),
        ("https://example.org/a.png", "must begin with"),
    ],
)
def test_what_is_refused_is_told(url, reason):
    with pytest.raises(UserError, match=reason):
        Intake().read_data_url(url, "picture 2")


def test_limits():
    with pytest.raises(TooLarge, match="more than 10 bytes"):
        Intake(image=ImageLimits(bytes=10)).read_base64(TEXT)
    with pytest.raises(TooLarge, match="pixels"):
        Intake(image=ImageLimits(pixels=47)).read_base64(TEXT)
    assert Intake(image=ImageLimits(bytes=len(PNG), pixels=48)).read_base64(TEXT) == PNG
    Intake(pictures=2).check_count(2)
    with pytest.raises(TooLarge, match="3 pictures; a conversation may have 2"):
        Intake(pictures=2).check_count(3)
    with pytest.raises(FieldError, match="pixels"):
        Intake(image=ImageLimits(pixels=0))
