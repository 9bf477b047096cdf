"""Programs that were written for VisualGLM."""

from itertools import pairwise

import pytest

from vglm_train.chat.visualglm import VisualGLMChat
from vglm_train.errors import UserError


def test_its_calls(models, pictures):
    model = models["chatglm"]
    old = VisualGLMChat(model)
    response, history = old.chat(None, str(pictures[0]), "第几张照片", history=[], max_new=8)
    wanted, turns = model.chat(pictures[0], "第几张照片", max_new=8)
    assert (response, history) == (wanted, [("第几张照片", wanted)])
    response, history = old.chat(None, str(pictures[0]), "which", history, max_new=8)
    assert response == model.chat(pictures[0], "which", turns, max_new=8)[0]
    assert [question for question, _ in history] == ["第几张照片", "which"]
    parts = list(old.stream_chat(None, str(pictures[0]), "which", history[:1], max_new=8))
    assert parts[-1] == (response, history)
    assert all(later[0].startswith(earlier[0]) for earlier, later in pairwise(parts))


def test_max_length_is_of_prompt_and_answer(models, pictures):
    old = VisualGLMChat(models["chatglm"])
    asked = models["chatglm"].ask(pictures[0], "what")
    length = len(asked.request.prompt.input_ids)
    assert asked.within(length + 3).request.decoding.max_new == 3
    response, _ = old.chat(None, pictures[0], "what", max_length=length + 1, do_sample=False)
    assert response == models["chatglm"].chat(pictures[0], "what", max_new=1, sample=False)[0]
    with pytest.raises(UserError, match="max_length is 5"):
        old.chat(None, pictures[0], "what", max_length=5)
