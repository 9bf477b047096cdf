"""Pictures by their URLs, from hosts that the server's owner allows and from no other place.

Every redirect is judged like the first URL. A name is resolved once for each connection: its addresses are judged, and
the connection goes to one of these, so a name that resolves differently the next time gains nothing.
"""

import asyncio
import ipaddress
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from socket import SOCK_STREAM
from typing import Any, NoReturn
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

from vglm_train.chat.intake import TooLarge
from vglm_train.config.validation import positive
from vglm_train.errors import UserError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": "vglm_train", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}

_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchRules:
    """Where pictures may be fetched."""

    hosts: tuple[str, ...]  # names, or *.example.org for all below example.org
    plain: bool = False  # whether http is allowed beside https
    ports: tuple[int, ...] = ()  # beside 443, and 80 for http
    networks: tuple[Network, ...] = ()  # that are not public, and allowed nevertheless: a hospital's own
    redirects: int = 3
    seconds: float = 10.0  # for all pictures of a request
    at_once: int = 8  # requests whose pictures are being fetched

    def __post_init__(self) -> None:
        positive(self, "seconds", "at_once")
        for host in self.hosts:
            if not _HOST.fullmatch(host.removeprefix("*.")):
                raise UserError(f"image host {host!r}: give a name such as images.example.org, or *.example.org.")

    def allows(self, host: str) -> bool:
        """Whether a name in small letters is that of an allowed host."""
        return any(host.endswith(rule[1:]) if rule.startswith("*.") else host == rule for rule in self.hosts)


class Fetcher:
    """Fetches pictures as `rules` say. It uses no proxy, and has neither cookies nor passwords."""

    def __init__(self, rules: FetchRules, resolve: Resolve | None = None, tls: ssl.SSLContext | None = None) -> None:
        """resolve: host and port to addresses; tls: whose certificates are trusted. None: as the system does."""
        self.rules, self.tls = rules, tls
        self._backend = _Checked(rules, resolve or _resolve)
        self._turns = asyncio.Semaphore(rules.at_once)

    async def fetch(self, urls: Sequence[tuple[str, str]], most: int) -> list[bytes]:
        """What is at these URLs, each with its name for messages, of at most `most` bytes in all.

        Nobody has looked at the bytes. UserError that names the URL; TooLarge.
        """
        got: list[bytes] = []
        name = urls[0][1] if urls else ""
        try:
            async with asyncio.timeout(self.rules.seconds), self._turns:
                for url, name in urls:
                    got.append(await self._fetch(url, name, most - sum(map(len, got))))
        except TimeoutError:
            raise UserError(f"{name}: did not come within {self.rules.seconds:g} s; send the picture itself.") from None
        return got

    async def _fetch(self, url: str, name: str, most: int) -> bytes:
        for _ in range(self.rules.redirects + 1):
            parts = self._allowed(url, name)
            try:
                answer = await self._get(parts, name, most)
            except NotPublicError:
                _refuse(name, "its host is at an address that is not public")
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
                raise UserError(f"{name}: the host does not answer as it should ({type(error).__name__}).") from None
            if isinstance(answer, bytes):
                return answer
            try:
                url = urljoin(parts.geturl(), answer)
            except ValueError:
                _refuse(name, "its redirect is no URL")
        _refuse(name, f"more than {self.rules.redirects} redirects")

    async def _get(self, parts: SplitResult, name: str, most: int) -> bytes | str:
        """The bytes there, or where they are said to be."""
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        url = httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=target)
        headers = {"Host": parts.netloc, **HEADERS}
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self.tls, network_backend=self._backend) as pool,
            pool.stream("GET", url, headers=list(headers.items())) as response,
        ):
            given = {key.lower(): value.decode("latin-1") for key, value in response.headers}
            if response.status in REDIRECTS and b"location" in given:
                return given[b"location"]
            if response.status != 200:
                _refuse(name, f"the host answers with status {response.status}")
            return await _read(response, given.get(b"content-length", ""), name, most)

    def _allowed(self, url: str, name: str) -> SplitResult:
        """The parts of a URL that may be fetched. UserError."""
        schemes = ("https", "http") if self.rules.plain else ("https",)
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            _refuse(name, "a URL has ASCII letters without spaces: encode the others")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            _refuse(name, "no URL")
        if parts.scheme not in schemes:
            _refuse(name, f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if "@" in parts.netloc:
            _refuse(name, "user names and passwords are not sent")
        if not _HOST.fullmatch(host) or not self.rules.allows(host):
            _refuse(name, "pictures are not fetched from this host")
        if port not in (None, {"https": 443, "http": 80}[parts.scheme], *self.rules.ports):
            _refuse(name, f"pictures are not fetched from port {port}")
        return parts._replace(fragment="")


class NotPublicError(httpcore.ConnectError):
    """A name resolves to an address that strangers have no business with."""


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that it judged itself."""

    def __init__(self, rules: FetchRules, resolve: Resolve) -> None:
        self.rules, self.resolve, self.inner = rules, resolve, httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """To the first address that answers, if all of them are allowed."""
        try:
            addresses = [ipaddress.ip_address(each) for each in await self.resolve(host, port)]
        except (OSError, ValueError) as error:
            raise httpcore.ConnectError(str(error)) from error
        if not all(is_public(each) or any(each in network for network in self.rules.networks) for each in addresses):
            raise NotPublicError(host)
        failed: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                return await self.inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


def is_public(address: Address) -> bool:
    """Whether an address is one machine of the internet, and hides no IPv4 address within an IPv6 one."""
    if address.version == 4:
        return address.is_global and not address.is_multicast and not address.is_reserved
    hidden = address.ipv4_mapped or address.sixtofour or address.teredo
    return address in _GLOBAL_UNICAST and address.is_global and not hidden


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    return [str(each[4][0]) for each in found]


async def _read(response: httpcore.Response, length: str, name: str, most: int) -> bytes:
    """The body, given up as soon as it is too long."""
    parts: list[bytes] = []
    left = most
    async for part in response.aiter_stream():
        left -= len(part)
        if left < 0 or (length.isdecimal() and int(length[:20]) > most):
            raise TooLarge(f"{name}: the pictures of a request may have {most:,} bytes more; send smaller ones.")
        parts.append(part)
    return b"".join(parts)


def _refuse(name: str, reason: str) -> NoReturn:
    raise UserError(f"{name}: cannot be fetched ({reason}); send the picture itself, as a data: URL in base64.")
