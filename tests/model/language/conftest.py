import pytest
from small_chatglm import chatglm


@pytest.fixture(scope="session")
def model():
    return chatglm()
