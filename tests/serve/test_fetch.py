"""Pictures by URL, from real hosts on this machine: only where the rules allow, whatever names and redirects say."""

import asyncio
import ipaddress

import pytest
from made_pictures import encoded
from PIL import Image
from serve.made_hosts import LOOPBACK, Names, certificate, dripping, endless, picture_host

from vglm_train.chat.intake import TooLarge
from vglm_train.errors import UserError
from vglm_train.serve.fetch import Fetcher, FetchRules, is_public

PICTURE = encoded(Image.new("RGB", (8, 6), "red"), "PNG")
HOME = [["127.0.0.1"]]


@pytest.fixture
def host():
    with picture_host() as running:
        running.answers["/a.png"] = PICTURE
        yield running


def fetcher(host, names: Names | None = None, **rules) -> Fetcher:
    """Allowed to reach this machine, as if that were public."""
    given = {"hosts": ("one.test", "*.two.test"), "plain": True, "ports": (host.port,), "networks": LOOPBACK, **rules}
    return Fetcher(FetchRules(**given), names or Names(one_test=HOME, a_two_test=HOME, b_two_test=HOME))


def fetched(fetcher: Fetcher, *urls: str, most: int = 10_000) -> list[bytes]:
    return asyncio.run(fetcher.fetch([(url, f"picture {number}") for number, url in enumerate(urls, 1)], most))


def refused(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(UserError) as caught:
        fetched(fetcher, url)
    assert "picture 1" in str(caught.value)
    return str(caught.value)


def test_pictures_of_allowed_hosts(host):
    host.answers["/b.png?x=1"] = PICTURE[:50]
    one, two = f"http://one.test:{host.port}/a.png", f"http://a.two.test:{host.port}/b.png?x=1#part"
    assert fetched(fetcher(host), one, two, one) == [PICTURE, PICTURE[:50], PICTURE]
    assert fetched(fetcher(host)) == []
    _, headers = host.asked[0]
    assert headers["host"] == f"one.test:{host.port}"
    assert not {"cookie", "authorization", "referer"} & headers.keys()


def test_no_proxy_of_the_environment_is_used(host, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetched(fetcher(host), f"http://one.test:{host.port}/a.png") == [PICTURE]


def test_https_by_the_name_and_not_by_the_address(tmp_path):
    server, client = certificate(tmp_path, "one.test")
    with picture_host(server) as host:
        host.answers["/a.png"] = PICTURE
        rules = FetchRules(hosts=("one.test", "other.test"), ports=(host.port,), networks=LOOPBACK)
        trusting = Fetcher(rules, Names(one_test=HOME, other_test=HOME), client)
        assert fetched(trusting, f"https://one.test:{host.port}/a.png") == [PICTURE]
        assert "does not answer as it should" in refused(trusting, f"https://other.test:{host.port}/a.png")
        doubting = Fetcher(rules, Names(one_test=HOME))
        assert "does not answer as it should" in refused(doubting, f"https://one.test:{host.port}/a.png")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://other.test/a.png", "not fetched from this host"),
        ("http://two.test/a.png", "not fetched from this host"),
        ("http://eviltwo.test/a.png", "not fetched from this host"),
        ("http://one.test.evil.test/a.png", "not fetched from this host"),
        ("http://one.test./a.png", "not fetched from this host"),
        ("http://one.test%2eevil.test/a.png", "not fetched from this host"),
        ("http://127.0.0.1/a.png", "not fetched from this host"),
        ("http://[::1]/a.png", "not fetched from this host"),
        ("http://2130706433/a.png", "not fetched from this host"),
        ("http:///a.png", "not fetched from this host"),
        ("http://one.test:22/a.png", "from port 22"),
        ("http://one.test:443/a.png", "from port 443"),
        ("http://one.test:99999/a.png", "no URL"),
        ("http://[one.test/a.png", "no URL"),
        ("http://user:secret@one.test/a.png", "user names"),
        ("http://one.test@evil.test/a.png", "user names"),
        ("http://evil.test\\@one.test/a.png", "ASCII"),
        ("http://one.test/a b", "ASCII"),
        ("http://one.test/a\r\nX: y", "ASCII"),
        ("http://оne.test/a.png", "ASCII"),
        ("ftp://one.test/a.png", "must begin with https:// or http://"),
        ("file:///etc/passwd", "must begin with"),
        ("gopher://one.test/a", "must begin with"),
        ("//one.test/a.png", "must begin with"),
        ("/etc/passwd", "must begin with"),
    ],
)
def test_what_is_not_allowed_is_never_asked(host, url, reason):
    names = Names()
    assert reason in refused(fetcher(host, names), url)
    assert names.asked == []


def test_http_only_if_it_is_allowed(host):
    assert "must begin with https://" in refused(fetcher(host, plain=False), f"http://one.test:{host.port}/a.png")


def test_redirects_are_judged_like_the_first_url(host):
    here = f"http://one.test:{host.port}"
    host.answers |= {"/r3": "/r2", "/r2": f"http://b.two.test:{host.port}/r1", "/r1": f"{here}/a.png", "/r4": "/r3"}
    assert fetched(fetcher(host), f"{here}/r3") == [PICTURE]
    assert all("cookie" not in headers for _, headers in host.asked)
    assert "more than 3 redirects" in refused(fetcher(host), f"{here}/r4")
    for place, reason in (
        ("http://evil.test/a.png", "this host"),
        (f"http://127.0.0.1:{host.port}/a.png", "this host"),
        ("http://169.254.169.254/latest/meta-data", "this host"),
        ("file:///etc/passwd", "must begin with"),
        ("http://one.test:25/", "port 25"),
        ("http://u:p@one.test/", "user names"),
        ("//[", "its redirect is no URL"),
    ):
        host.answers["/away"] = place
        assert reason in refused(fetcher(host), f"{here}/away"), place


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::1", "2001:0:7f00:1::1", "2001:db8::1", "100::1", "5f00::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(host, address):
    assert not is_public(ipaddress.ip_address(address))
    names = Names(one_test=[["8.8.8.8", address]])  # one of them is enough
    assert "not public" in refused(fetcher(host, names, networks=()), f"http://one.test:{host.port}/a.png")
    assert host.asked == []


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001::1"])
def test_addresses_that_are_public(address):
    assert is_public(ipaddress.ip_address(address))


def test_a_name_that_changes_its_answer_gains_nothing(host):
    """It is resolved once for a connection, and what was judged is what is connected to."""
    allowed = (ipaddress.ip_network("127.0.0.1/32"),)
    url = f"http://one.test:{host.port}/a.png"
    changing = Names(one_test=[["127.0.0.1"], ["127.0.0.2"]])
    assert fetched(fetcher(host, changing, networks=allowed), url) == [PICTURE]
    assert changing.asked == ["one.test"]
    assert "not public" in refused(fetcher(host, changing, networks=allowed), url)
    host.answers["/again"] = url
    changing = Names(one_test=[["127.0.0.1"], ["127.0.0.2"]])
    again = fetcher(host, changing, networks=allowed)
    assert "not public" in refused(again, f"http://one.test:{host.port}/again")


def test_a_second_address_is_tried(host):
    names = Names(one_test=[["127.0.0.3", "127.0.0.1"]])
    assert fetched(fetcher(host, names), f"http://one.test:{host.port}/a.png") == [PICTURE]


def test_too_much_is_given_up(host):
    host.answers |= {"/endless": endless, "/long": bytes(5000)}
    here = f"http://one.test:{host.port}"
    for urls, most in (([f"{here}/endless"], 10_000), ([f"{here}/long"], 4999), ([f"{here}/long"] * 3, 12_000)):
        with pytest.raises(TooLarge, match=f"picture {len(urls)}"):
            fetched(fetcher(host), *urls, most=most)
    assert fetched(fetcher(host), f"{here}/long", f"{here}/long", most=10_000) == [bytes(5000)] * 2


def test_what_takes_too_long_is_given_up(host):
    host.answers["/slow"] = dripping
    assert "did not come within 0.5 s" in refused(fetcher(host, seconds=0.5), f"http://one.test:{host.port}/slow")


def test_hosts_that_fail(host):
    here = f"http://one.test:{host.port}"
    host.answers["/nonsense"] = lambda handler: handler.wfile.write(b"\0nonsense\r\n\r\n")
    host.answers["/head"] = lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000)
    assert "status 404" in refused(fetcher(host), f"{here}/none")
    for url in (f"{here}/nonsense", f"{here}/head", f"http://gone.two.test:{host.port}/a.png"):
        assert "does not answer as it should" in refused(fetcher(host), url)


def test_rules_that_are_no_hosts():
    for name in ("", "*", "*.*.org", "https://a.org", "a.org:80", "A.org", "a..b"):
        with pytest.raises(UserError, match="image host"):
            FetchRules(hosts=(name,))
