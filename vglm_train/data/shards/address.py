"""Addresses that are not local paths: http(s)://, s3://, pipe:COMMAND, brace lists."""

import shlex
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from vglm_train.errors import UserError, needs_extra

REMOTE = ("http://", "https://", "s3://", "pipe:")


def is_remote(address: str) -> bool:
    return address.startswith(REMOTE)


def shards_of(address: str) -> list[str] | None:
    """The single shards that a brace list or the name of one shard stands for; None: it names a folder or a manifest.

    A command with {} in it is a folder: its manifest and shards have names.
    """
    command = address.startswith("pipe:")
    if (command and "{}" in address) or (not is_remote(address) and Path(address).is_dir()):
        return None
    if "{" not in address:
        path = urlsplit(address).path if address.startswith("http") else address
        return [address] if command or path.endswith(".tar") else None
    with needs_extra("train", f"the brace list {redacted(address)}"):
        from braceexpand import braceexpand
    try:
        return list(braceexpand(address))
    except ValueError as error:
        if command:  # braces of the shell's own
            return [address]
        raise UserError(f"{redacted(address)}: not a brace list such as {{000..099}}.tar: {error}") from None


def split_manifest(address: str, name: str) -> tuple[str, str]:
    """A folder, a command with {} or a manifest -> folder (or command), and address of the manifest."""
    if address.startswith("pipe:"):
        return address, join_address(address, name)
    folder, _, last = address.rpartition("/")
    if last.endswith(".json"):
        return folder + "/", address
    folder = address.rstrip("/") + "/"
    return folder, join_address(folder, name)


def join_address(folder: str, name: str) -> str:
    """The address of a file in a folder, or the command that gives it."""
    if folder.startswith("pipe:"):
        return folder.replace("{}", shlex.quote(name))
    return folder + (quote(name) if folder.startswith("http") else name)


def server_of(address: str) -> str:
    """What may be down as a whole: the host, the bucket, or the program and its first argument."""
    if address.startswith("pipe:"):
        return " ".join(address.split()[:2])
    return "/".join(address.split("/")[:3])


def redacted(address: str) -> str:
    """For logs and messages: without passwords and signatures."""
    if not address.startswith("http"):
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "..." if parts.query else "", ""))
