"""The manifest of a source whose shards or manifest are not in a local folder, or that has none."""

import dataclasses
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from vglm_train.config.data import Cache, Source
from vglm_train.data.remote.cache import ShardCache, locked
from vglm_train.data.remote.download import Unreachable, fetch_bytes
from vglm_train.data.shards.address import is_remote, join_address, redacted, shards_of, split_manifest
from vglm_train.data.shards.index import count_languages, read_caption_counts, write_index
from vglm_train.data.shards.manifest import NAME, Manifest
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.shard_list import ShardList
from vglm_train.data.shards.tar import walk_tar
from vglm_train.errors import MissingData, UserError
from vglm_train.files import open_binary
from vglm_train.progress import Progress

AT_ONCE = 8  # shards that are fetched to be counted

logger = logging.getLogger(__name__)


def manifest_of(source: Source, cache: Cache, count: bool = True) -> Manifest | None:
    """What the source's shards are, with their addresses; None: read its local folder as ever.

    A brace list has no manifest: its shards are fetched and counted once, and the counts kept in the cache. UserError
    where that cannot be, or was not done and is not to be (`count` False).
    """
    if source.shards is None:  # a table
        return None
    store, listed = ShardCache(cache), shards_of(source.shards)
    if listed is not None and source.manifest is not None:
        raise UserError(
            f"source {source.name!r}: shards is a list and manifest is given; to read by a manifest, name the folder "
            "of the shards."
        )
    if listed is not None:
        return _counted(source, listed, store, count)
    if source.manifest is None and not is_remote(source.shards):
        return None
    folder, address = split_manifest(source.shards, NAME)
    manifest = _read(source.manifest or address, cache)
    shards = ShardList(manifest.shards, manifest.path.parent, partial(_in_folder, folder, store))
    return dataclasses.replace(manifest, shards=shards)


def _read(address: str, cache: Cache) -> Manifest:
    if not is_remote(address):
        return Manifest.read(Path(address))
    try:
        return Manifest.parse(fetch_bytes(address, cache), Path(NAME), redacted(address))
    except Unreachable as error:
        raise MissingData(
            f"{redacted(address)}: {error}. A source is a folder that holds {NAME} (vglm data check_shards "
            "FOLDER --write-manifest makes one), or a list of shards: .../{000..099}.tar."
        ) from None


def _in_folder(folder: str, store: ShardCache, shard: Shard) -> Shard:
    return _placed(shard, join_address(folder, shard.name), store)


def _placed(shard: Shard, address: str, store: ShardCache) -> Shard:
    """The shard with its address, and the path of its copy; a local path needs none."""
    if not is_remote(address):
        return dataclasses.replace(shard, path=Path(address))
    return dataclasses.replace(shard, path=store.path(address, shard.sha256), url=address)


def _counted(source: Source, addresses: Sequence[str], store: ShardCache, count: bool) -> Manifest:
    """Of shards that no manifest lists."""
    paths = [Path(address) for address in addresses if not is_remote(address)]
    state = [_file_state(path, source.name) for path in paths]
    digest = hashlib.blake2b(json.dumps([addresses, state]).encode(), digest_size=10).hexdigest()
    file = store.folder / f"counted-{digest}.json"
    if not file.exists():
        if not count:
            raise MissingData(f"source {source.name!r}: its {len(addresses)} shards are counted when it is first read.")
        store.begin()
        with locked(file.with_suffix(".lock")):
            if not file.exists():
                _count(source, addresses, store, file)
    manifest = Manifest.read(file)
    shards = [_placed(shard, address, store) for shard, address in zip(manifest.shards, addresses)]
    return dataclasses.replace(
        manifest, shards=tuple(shards), origin=f"{redacted(str(source.shards))} (counted in {file})"
    )


def _file_state(path: Path, name: str) -> tuple[int, int]:
    """What changes when a local shard does."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"source {name!r}: {path}: {error.strerror}. Mend the list of shards.") from None
    return found.st_size, found.st_mtime_ns


def _count(source: Source, addresses: Sequence[str], store: ShardCache, file: Path) -> None:
    """Fetch and read every shard once; the result is written like a manifest."""
    logger.info("source %r has no manifest: counting its %d shards once", source.name, len(addresses))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        counting = pool.map(lambda address: _count_one(address, store), addresses)
        try:
            shards = list(Progress(len(addresses), "shard", f"counting {source.name}").over(counting))
        except Unreachable as error:
            pool.shutdown(cancel_futures=True)
            raise UserError(f"source {source.name!r} has no manifest, and cannot be counted: {error}") from None
    captions: Counter[str] = Counter()
    for shard in shards:
        captions.update(shard.languages or {})
    extra = {"captions": dict(captions)} if captions else {}
    Manifest(file, tuple(shards), extra).write()


def _count_one(address: str, store: ShardCache) -> Shard:
    """A shard as the manifest would list it. Its copy stays in the cache under the name that it is read by later."""
    path, remote = Path(address), is_remote(address)
    if remote:
        path = store.path(address, "")
        try:
            handle = store.open(Shard(redacted(address), path, 0, 0, "", url=address))
        except Unreachable as error:
            raise Unreachable(f"{redacted(address)}: {error}") from None
    else:
        handle = open_binary(path)
    with open(handle, "rb") as content:  # stays open: others may delete the copy meanwhile
        table = walk_tar(handle)
        if table.fault is not None:
            raise UserError(f"{redacted(address)}: {table.fault}.")
        if table.cut is not None or table.lost:
            reason = table.lost or f"the file ends within sample {table.key(table.cut or 0)}: what followed is lost"
            logger.warning("%s: %s", redacted(address), reason)
        if not len(table):
            logger.warning("%s: holds no sample", redacted(address))
        table = read_caption_counts(table, handle)
        digest, size = hashlib.file_digest(content, "sha256").hexdigest(), os.fstat(handle).st_size
    if remote:
        with suppress(FileNotFoundError):
            os.replace(path, store.path(address, digest))
            write_index(store.path(address, digest), table, digest)
    return Shard(redacted(address), path, len(table), size, digest, count_languages(table))
