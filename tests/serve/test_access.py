"""Who may ask: this machine, or whoever has the token."""

import socket

import pytest
from serve.made_server import TOKEN, chat_body, serving_at

from vglm_train.access import VARIABLE, Access, address, bind, is_loopback, read_access
from vglm_train.errors import UserError

HI = {"role": "user", "content": "what"}


@pytest.fixture(scope="module")
def guarded(made):
    """A server with a token."""
    with serving_at(made(), access=Access("127.0.0.1", TOKEN)) as running:
        yield running


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_this_machine_needs_no_token(host, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert is_loopback(host)
    assert read_access(host, None) == Access(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu-box", "", "127.0.0.1.evil.org", "localhost.org"])
def test_any_other_address_does_and_says_so(host, monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not is_loopback(host)
    with pytest.raises(UserError, match=r"needs a token.*--token-file FILE, or set VGLM_TOKEN"):
        read_access(host, None)
    file = tmp_path / "token"
    file.write_text(f" {TOKEN}\n")
    assert read_access(host, str(file)) == Access(host, TOKEN)
    monkeypatch.setenv(VARIABLE, TOKEN)
    assert read_access(host, None) == Access(host, TOKEN)


def test_a_token_that_others_can_read_is_told(tmp_path, capsys):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    for mode, said in ((0o644, f"chmod 600 {file}\n"), (0o600, "")):
        file.chmod(mode)
        read_access("127.0.0.1", str(file))
        told = capsys.readouterr().err
        assert told.endswith(said)
        assert bool(told) == bool(said)


def test_the_address_of_all_of_this_machine_is_one_that_others_can_open():
    with bind("0.0.0.0", 0) as listener:
        assert address(listener) == f"http://{socket.gethostname()}:{listener.getsockname()[1]}"


@pytest.mark.parametrize("text", ["", "short", "two words of a token", "ein-Schlüssel-für-alle"])
def test_tokens_that_are_none(text, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(text, "utf-8")
    with pytest.raises(UserError, match=f"--token-file {file}: a token has 16"):
        read_access("127.0.0.1", str(file))
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match="VGLM_TOKEN: a token has 16"):
        read_access("127.0.0.1", None)
    with pytest.raises(UserError, match="cannot be read"):
        read_access("127.0.0.1", str(tmp_path / "nowhere"))


def test_the_whole_token_is_compared_in_one_time(monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda given, token: compared.append((given, token)) or given == token)
    access = Access("0.0.0.0", TOKEN)
    for given in (TOKEN, TOKEN[:-1], "x", "", "ключ"):
        assert (access.refusal({"authorization": f"Bearer {given}"}) is None) == (given == TOKEN)
    assert compared == [(given.encode(), TOKEN.encode()) for given in (TOKEN, TOKEN[:-1], "x", "", "ключ")]


def test_the_official_client_gives_it_as_its_key(guarded):
    assert [card.id for card in guarded.client().models.list()] == ["tiny"]


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong-token-of-this-test-01", f"Basic {TOKEN}", TOKEN])
def test_without_it_nothing_but_the_probes_answers(guarded, given):
    headers = {} if given is None else {"Authorization": given}
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
        got = guarded.get(path, headers=headers)
        assert (got.status_code, got.headers["www-authenticate"]) == (401, "Bearer"), path
        assert got.json()["error"]["type"] == "authentication_error"
    got = guarded.post("/v1/chat/completions", chat_body(HI), headers=headers)
    assert (got.status_code, got.json()["error"]["code"]) == (401, "wrong_token")
    got = guarded.post("/", {"text": "what"}, headers=headers)
    assert (got.status_code, got.json()["status"]) == (401, 401)
    assert guarded.get("/health", headers=headers).status_code == 200
    assert guarded.get("/ready", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1", "a b"])
def test_a_name_that_was_made_to_lead_here_is_refused(tiny, host):
    for path in ("/health", "/v1/models"):
        got = tiny.get(path, headers={"Host": host})
        assert got.status_code in (400, 403)
    port = tiny.url.rpartition(":")[2]
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert tiny.get("/health", headers={"Host": f"{name}:{port}"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://localhost:1", "https://127.0.0.1.evil"])
def test_pages_of_other_sites_are_refused(tiny, guarded, origin):
    got = tiny.post("/", {"text": "what"}, headers={"Origin": origin})
    assert (got.status_code, got.json()["status"]) == (403, 403)
    got = guarded.get("/v1/models", headers={"Origin": origin, "Authorization": f"Bearer {TOKEN}"})
    assert (got.status_code, got.json()["error"]["code"]) == (403, "wrong_origin")
    assert not [name for name in got.headers if name.startswith("access-control")]
    assert tiny.get("/health", headers={"Origin": tiny.url}).status_code == 200


def test_behind_a_proxy_with_a_token_every_name_is_good(guarded):
    headers = {"Host": "models.example", "Origin": "https://models.example", "Authorization": f"bearer {TOKEN}"}
    assert guarded.get("/v1/models", headers=headers).status_code == 200
