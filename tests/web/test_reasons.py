"""What went wrong, in the words of the page."""

import io
import re

import pytest
from PIL import Image

from vglm_train.chat.intake import Intake
from vglm_train.chat.request import Busy, Closed
from vglm_train.errors import UserError
from vglm_train.image import ImageLimits
from vglm_train.web.conversation import TooMany, Writing
from vglm_train.web.reasons import picture_reason, reason
from vglm_train.web.words import CHINESE, ENGLISH

HAN = re.compile("[\u4e00-\u9fff]")


def refused(data: bytes, **limits: int) -> UserError:
    with pytest.raises(UserError) as caught:
        Intake(image=ImageLimits(**limits)).check(data)
    return caught.value


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "limits", "chinese", "detail"),
    [
        (picture(), {"bytes": 10}, "图片过大", "at most 10 are taken"),
        (picture(), {"pixels": 100}, "图片过大", "30 x 20 pixels"),
        (b"%PDF-1.4", {}, "格式不受支持", "PDF"),
        (b"", {}, "格式不受支持", "empty file"),
    ],
)
def test_a_picture_that_is_not_taken(data, limits, chinese, detail):
    error = refused(data, **limits)
    assert chinese in picture_reason(CHINESE, error)
    assert detail in picture_reason(CHINESE, error)
    assert detail in picture_reason(ENGLISH, error)
    assert not HAN.search(picture_reason(ENGLISH, error))


def test_too_many_pictures():
    assert "8 张图片" in picture_reason(CHINESE, TooMany("full"))


@pytest.mark.parametrize(
    ("error", "chinese"),
    [(Busy(3, 7.0), "约 7 秒"), (Closed("over"), "正在关闭"), (Writing("x"), "还在回答中"),
     (KeyError("x"), "服务器出错了"),
     (UserError("odd"), "无法回答：odd")],
)  # fmt: skip
def test_no_answer(error, chinese):
    assert chinese in reason(CHINESE, error)
    assert not HAN.search(reason(ENGLISH, error))


def test_a_question_without_room(made):
    model = made(prompt=40)
    with pytest.raises(UserError) as caught:
        model.chat(None, "what " * 100)
    model.close()
    with pytest.raises(UserError) as closed:
        model.chat(None, "what")
    assert "问题连同图片过长" in reason(CHINESE, caught.value)
    assert "Ask more briefly" in reason(ENGLISH, caught.value)
    assert "正在关闭" in reason(CHINESE, closed.value)


def test_a_prompt_beyond_what_the_scheduler_takes(made):
    with pytest.raises(UserError) as caught:
        made(cached=10).chat(None, "what is this", max_new=20)
    assert "问题连同图片过长" in reason(CHINESE, caught.value)
