"""Strangers' pictures and texts against a real server: each gets its answer, in little memory, and it lives on."""

import base64
from collections.abc import Iterator

import httpx
import pytest
from image.test_image_limits import BOMBS
from made_pictures import encoded
from PIL import Image
from serve.made_hosts import LOOPBACK, Names, endless, picture_host
from serve.made_process import Attacked, serving_process
from serve.made_server import serving_at

from vglm_train.chat.intake import Intake
from vglm_train.serve.fetch import Fetcher, FetchRules
from vglm_train.serve.pictures import Pictures

RED = Image.new("RGB", (64, 48), "red")
PNG, JPEG, GIF = (encoded(RED, kind) for kind in ("PNG", "JPEG", "GIF"))


def url_of(data: bytes, declared: str = "image/png") -> str:
    return f"data:{declared};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="module")
def server(bundles, tmp_path_factory) -> Iterator[Attacked]:
    with serving_process(bundles["causal"], tmp_path_factory.mktemp("attacked")) as running:
        running.check_healthy()
        assert running.ask("what is this", url_of(PNG)).status_code == 200
        yield running


@pytest.fixture(autouse=True)
def survives(server) -> Iterator[None]:
    before = server.mib
    yield
    server.check_healthy()
    assert server.mib < before + 100


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(server, name):
    data = BOMBS[name]()
    word = name.split()[0]
    kind = next((kind for kind in ("JPEG", "GIF", "WebP", "TIFF", "AVIF") if word == kind or kind in name), "PNG")
    answer = server.ask("what is this", url_of(data, f"image/{kind.lower()}"))
    assert answer.status_code == 413, answer.text
    assert "messages[0].content[0].image_url.url" in answer.text
    assert server.post({"text": "a", "image": base64.b64encode(data).decode()}, "/").status_code == 413


@pytest.mark.parametrize(
    ("data", "declared", "reason"),
    [
        (JPEG[: len(JPEG) // 2], "image/jpeg", "cut short"),
        (JPEG[:30], "image/jpeg", "cut short"),
        (PNG[:60], "image/png", "cut short"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            "image/svg+xml",
            "declared",
        ),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png", "an SVG drawing"),
        (b"%PDF-1.7", "image/png", "a PDF"),
        (b"<!doctype html>", "image/gif", "a web page"),
        (b"PK\x03\x04", "image/png", "a zip archive"),
        (b"\x80\x04\x95", "image/png", "pickle"),
        (b"\x93NUMPY\x01\0", "image/png", "a NumPy array"),
        (PNG, "image/jpeg", "image/jpeg is declared, but it is a PNG picture"),
        (PNG, "text/html", "declared"),
        (PNG, "application/octet-stream", "declared"),
        (PNG, "image/*", "declared"),
    ],
)
def test_what_is_no_picture(server, data, declared, reason):
    answer = server.ask("what is this", url_of(data, declared))
    assert answer.status_code == 422
    assert reason in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (GIF + b"<script>alert(1)</script>", "image/gif"),
        (JPEG + b"PK\x03\x04" + bytes(100), "image/jpeg"),
        (PNG + b"%PDF-1.7", "image/png"),
    ],
)
def test_a_polyglot_is_its_picture(server, data, declared):
    answer = server.ask("what is this", url_of(data, declared), seed=1)
    assert answer.status_code == 200
    assert "script" not in answer.text


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd", "../../etc/passwd", "C:\\Windows\\win.ini", "file:///etc/passwd", "file://localhost/etc/passwd",
        "FILE:///etc/passwd", "//127.0.0.1/a.png", "http://127.0.0.1/a.png", "https://example.org/a.png",
        "http://169.254.169.254/latest/meta-data", "ftp://a/b.png", "gopher://a", "blob:a", "javascript:alert(1)",
        "data:", "data:,", "data:image/png;base64", "\\\\host\\share\\a.png", "s3://bucket/a.png", "hf://a/b", " ",
        "smb://a/b", "jar:file:///a!/b", "php://filter", "/dev/zero", "/proc/self/environ", "~/.ssh/id_rsa",
    ],
)  # fmt: skip
def test_addresses_are_not_opened(server, url):
    answer = server.ask("what is this", url)
    assert answer.status_code == 422
    assert "root:" not in answer.text
    assert server.post({"text": "a", "image": url}, "/").status_code in (422, 413)


def test_too_many_pictures_are_not_read(server):
    assert server.ask("what is this", *[url_of(PNG)] * 17).status_code == 413


def test_tensors_and_embeddings_are_no_messages(server):
    for part in (
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "image_url", "image_url": {"url": url_of(PNG)}, "prompt_embeds": "gASV"},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "/etc/passwd"}},
    ):
        answer = server.post({"model": "tiny", "messages": [{"role": "user", "content": [part]}]})
        assert answer.status_code == 400


@pytest.mark.parametrize("text", ["</s>", "<pad>", "<|endoftext|>", "<img>", "[gMASK]<sop>", "<image>", "<image>" * 5])
def test_marks_that_people_type_are_text(server, text):
    """An end of text in the question neither ends it nor shows a picture; "<image>" is no place for one."""
    plain, marked = (server.ask(each, url_of(PNG)) for each in ("what", f"what {text} is"))
    assert plain.status_code == marked.status_code == 200
    assert marked.json()["usage"]["prompt_tokens"] > plain.json()["usage"]["prompt_tokens"]


@pytest.fixture(scope="module")
def fetching(made) -> Iterator[tuple]:
    """A server that may fetch from one.test, which is a host on this machine."""
    with picture_host() as host, serving_at(made()) as running:
        names = Names(one_test=[["127.0.0.1"]], home_test=[["10.0.0.1"]], meta_test=[["169.254.169.254"]])
        rules = FetchRules(
            hosts=("one.test", "home.test", "meta.test", "two.test"), plain=True, ports=(host.port,), networks=LOOPBACK
        )
        running.serving.pictures = Pictures(Intake(), Fetcher(rules, names))
        host.answers |= {
            "/a.png": PNG,
            "/page": b"<!doctype html>",
            "/endless": endless,
            "/bomb": BOMBS["a long PNG"](),
        }
        host.answers |= {"/file": "file:///etc/passwd", "/inside": "http://home.test/a.png", "/loop": "/loop"}
        yield running, host, names


def fetched(running, *urls: str) -> httpx.Response:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [*parts, {"type": "text", "text": "what is this"}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0}
    return running.post("/v1/chat/completions", body)


def test_a_fetched_picture_is_that_picture(fetching):
    running, host, _ = fetching
    here = f"http://one.test:{host.port}/a.png"
    got, sent = fetched(running, here, here), fetched(running, url_of(PNG), url_of(PNG))
    assert (got.status_code, got.json()["choices"], got.json()["usage"]) == (
        200,
        sent.json()["choices"],
        sent.json()["usage"],
    )


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("one.test:PORT/page", 422, "a web page"),
        ("one.test:PORT/bomb", 413, "a side"),
        ("one.test:PORT/endless", 413, "bytes"),
        ("one.test:PORT/file", 422, "must begin with"),
        ("one.test:PORT/inside", 422, "not public"),
        ("one.test:PORT/loop", 422, "redirects"),
        ("home.test/a.png", 422, "not public"),
        ("meta.test/latest/meta-data", 422, "not public"),
        ("two.test/a.png", 422, "does not answer"),
        ("127.0.0.1:PORT/a.png", 422, "not fetched from this host"),
        ("169.254.169.254/latest", 422, "not fetched from this host"),
        ("[::ffff:127.0.0.1]/a.png", 422, "not fetched from this host"),
    ],
)
def test_what_is_not_fetched(fetching, path, status, reason):
    running, host, _ = fetching
    answer = fetched(running, f"http://{path.replace('PORT', str(host.port))}")
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["error"]["message"]
    assert running.get("/health").status_code == 200


def test_a_name_that_changes_its_answer(fetching):
    """The first answer is this machine, which is allowed; every later one is not."""
    running, host, names = fetching
    names.addresses["two.test"] = [["127.0.0.1"], ["10.0.0.1"]]
    host.answers["/again"] = f"http://two.test:{host.port}/a.png"
    assert "not public" in fetched(running, f"http://two.test:{host.port}/again").text
    names.addresses.pop("two.test")


def test_visualglm_fetches_nothing(fetching):
    running, host, _ = fetching
    before = len(host.asked)
    assert running.post("/", {"text": "a", "image": f"http://one.test:{host.port}/a.png"}).status_code == 422
    assert len(host.asked) == before
