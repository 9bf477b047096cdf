"""Where a server listens, and who may ask: whoever is on this machine, or else who has the token.

A page of another site that runs in a browser of this machine is on this machine too. It cannot leave out its Origin,
and a name that it had resolved to 127.0.0.1 (DNS rebinding) stands in Host: both are checked.
"""

import hmac
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from vglm_train.errors import UserError

VARIABLE = "VGLM_TOKEN"
BACKLOG = 1024  # connections that wait to be accepted
SHORTEST = 16  # characters of a token
Refusal = Literal["host", "origin", "token"]
REFUSALS: dict[Refusal, tuple[int, str]] = {
    "host": (403, "this server answers to localhost and 127.0.0.1 only; to use another name, start it with a token."),
    "origin": (403, "requests from pages of other sites are refused."),
    "token": (401, "give the server's token, as the header Authorization: Bearer TOKEN (an OpenAI client's api_key)."),
}


@dataclass(frozen=True, slots=True)
class Access:
    """The rule of one server."""

    host: str
    token: str | None = None

    def refusal(self, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request with these headers (names in small letters) is refused; None if it is not."""
        host = headers.get("host", "")
        if self.token is None and not is_loopback(_hostname(host)):
            return "host"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "origin"
        if self.token is None:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        return None if kind.lower() == "bearer" and self.accepts(given.strip()) else "token"

    def accepts(self, given: str) -> bool:
        """Whether this is the token, in a time that does not depend on how much of it is right."""
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())


def read_access(host: str, token_file: str | None) -> Access:
    """The rule for a server at `host`. UserError if others could reach it and it has no token."""
    token = _token(token_file)
    if token is None and not is_loopback(host):
        raise UserError(
            f"--host {host}: others could reach the server, so it needs a token. Write one to a file (python -c "
            f'"import secrets; print(secrets.token_urlsafe(32))") and give --token-file FILE, or set {VARIABLE}.'
        )
    return Access(host, token)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A socket at this address. UserError if it cannot be had."""
    try:
        if not 0 <= port < 2**16:
            raise OverflowError("a port lies between 0 and 65535")  # getaddrinfo would take another one
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        if sys.platform != "win32":  # there, two programs could share the port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        made.listen(BACKLOG)  # whoever comes before the server runs waits
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error}); give an address of this machine and a free "
            "port (0: any)."
        ) from error
    return made


def address(listener: socket.socket) -> str:
    """Where people find it: by this machine's name, if it listens at all of its addresses."""
    host, port = listener.getsockname()[:2]
    host = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _hostname(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _token(file: str | None) -> str | None:
    """The token of the file, or of the environment. UserError for one that is none."""
    if file is None:
        text, source = os.environ.get(VARIABLE), VARIABLE
    else:
        source = f"--token-file {file}"
        try:
            text = Path(file).read_text("utf-8")
            if os.name == "posix" and Path(file).stat().st_mode & 0o077:
                print(f"{source}: others on this machine may read it; chmod 600 {file}", file=sys.stderr)
        except (OSError, UnicodeError) as error:
            raise UserError(f"{source}: cannot be read ({error}); give a text file with the token in it.") from error
    if text is None:
        return None
    token = text.strip()
    if len(token) < SHORTEST or not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError(
            f"{source}: a token has {SHORTEST} characters or more, ASCII letters and digits without spaces."
        )
    return token
