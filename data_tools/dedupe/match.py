"""Which records show one picture: what workers of `dedupe` run, and which record stays.

A row is a record, counted through all inputs; a node is a picture file, that is a row for each different image_id.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_tools.common.image_hash import DECODED, THUMBNAIL, compare, image_hash
from data_tools.common.jobs import JobStage
from data_tools.common.records import Block, Inputs, RecordItem, open_picture, read_block
from data_tools.dedupe.hash_index import NearPairs, Rows
from vglm_train.data.record import RecordError
from vglm_train.files import replace_file
from vglm_train.image import read_header

PICTURE_INFO = np.dtype([("hash", "u8"), ("image_id", "i8"), ("captions", "i4"), ("area", "i8"), ("usable", "?")])
EDGE = np.dtype([("i", "i8"), ("j", "i8"), ("distance", "i4"), ("agreement", "f4")])
COMPARED = 32  # candidates compared in one go, which fit a core's cache
SEARCHED = 1024  # nodes of a search block


@dataclass(frozen=True, slots=True)
class Search:
    """When two pictures are one: hashes within `distance` of 64 bits, edges that agree by `agreement`."""

    distance: int
    agreement: float


@dataclass(frozen=True, slots=True)
class Nodes:
    """Rows `first`, `count` of them, of the node table: a block of the search."""

    number: int
    first: int
    count: int


class Drop(NamedTuple):
    """Why a row goes: `of` is the row that stays instead."""

    rule: str
    of: int
    distance: int
    agreement: float


@dataclass(frozen=True, slots=True)
class Gathered:
    """Of all rows: `info` [rows] of PICTURE_INFO; `wrong`: those that cannot be used, with cause and reason."""

    info: NDArray[Any]
    wrong: dict[int, tuple[str, str]]


def hash_block(block: Block) -> bytes:
    """Hash and thumbnail of each picture of a block, as a part."""
    info, thumbnails = np.zeros(block.count, PICTURE_INFO), np.zeros(block.count, THUMBNAIL)
    wrong: list[tuple[int, str, str]] = []
    for item in read_block(block):
        index = item.row - block.first
        try:
            info[index], thumbnails[index] = _hash_item(item)
        except RecordError as error:
            wrong.append((item.row, error.cause, str(error)))
    out = io.BytesIO()
    np.savez(out, facts=info, thumbnails=thumbnails, wrong=np.frombuffer(json.dumps(wrong).encode(), np.uint8))
    return out.getvalue()


def _hash_item(item: RecordItem) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    captions = sum(len(texts) for texts in item.record.captions.values())
    data = item.image()
    found = image_hash(open_picture(data, DECODED))
    _, width, height = read_header(data)
    return (found.hash, item.image_id(data), captions, width * height, True), (found.grey, found.colours)


def gather(stage: JobStage, inputs: Inputs, thumbnails: Path) -> Gathered:
    """All parts of the first stage: info in memory, thumbnails as one file that every worker maps."""
    info, wrong = np.zeros(inputs.records, PICTURE_INFO), {}
    shape = (inputs.records,)
    with replace_file(thumbnails) as whole:
        file = np.lib.format.open_memmap(whole.name, mode="w+", dtype=THUMBNAIL, shape=shape)
        for block, part in zip(inputs.blocks, stage.read(inputs.blocks)):
            with np.load(io.BytesIO(part)) as arrays:
                rows = slice(block.first, block.first + block.count)
                info[rows], file[rows] = arrays["facts"], arrays["thumbnails"]
                wrong.update({row: (cause, reason) for row, cause, reason in json.loads(arrays["wrong"].tobytes())})
        file.flush()
        del file
    return Gathered(info, wrong)


def rank(info: NDArray[Any], own: int) -> Rows:
    """[rows] the usable rows, best first: evaluation rows (from `own` on), more captions, larger, earlier."""
    rows = np.flatnonzero(info["usable"])
    keys = (rows, -info["area"][rows], -info["captions"][rows].astype(np.int64), rows < own)
    return rows[np.lexsort(keys)]


def first_of_each(info: NDArray[Any], ranked: Rows) -> tuple[Rows, Rows]:
    """Nodes [n] as rows, best first, and [rows] the node's index in that list of each usable row, -1 of others."""
    _, firsts, inverse = np.unique(info["image_id"][ranked], return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    node_of = np.full(len(info), -1, np.int64)
    node_of[ranked] = np.argsort(order)[inverse]
    return ranked[firsts[order]], node_of


@lru_cache(maxsize=1)
def _searcher(folder: Path, search: Search) -> tuple[NearPairs, Rows, NDArray[Any]]:
    """Of this process: built once for all its blocks."""
    nodes, hashes = np.load(folder / "nodes.npy"), np.load(folder / "hashes.npy")
    return NearPairs(hashes, search.distance), nodes, np.load(folder / "thumbnails.npy", mmap_mode="r")


def search_block(folder: Path, search: Search, block: Nodes) -> bytes:
    """The edges of a block of nodes to later ones, as a part: an array of EDGE."""
    pairs, nodes, thumbnails = _searcher(folder, search)
    found = [np.zeros(0, EDGE)]
    for i, j, distances in pairs.of(block.first, block.count):
        for start in range(0, len(i), COMPARED):
            part = slice(start, start + COMPARED)
            scores = compare(thumbnails[nodes[i[part]]], thumbnails[nodes[j[part]]], search.agreement)
            same = scores >= search.agreement
            edges = np.zeros(int(same.sum()), EDGE)
            edges["i"], edges["j"], edges["distance"] = i[part][same], j[part][same], distances[part][same]
            edges["agreement"] = scores[same]
            found.append(edges)
    return np.concatenate(found).tobytes()


def decide(edges: NDArray[Any], nodes: Rows, node_of: Rows, own: int) -> dict[int, Drop]:
    """The rows that go. Each goes for a row that stays and that it was compared with itself.

    Nodes come best first, so a node stays unless one before it stays that looks the same: no chain of small
    differences ties together what differs.
    """
    neighbours: dict[int, list[tuple[int, int, float]]] = {}
    for i, j, distance, score in edges.tolist():
        neighbours.setdefault(max(i, j), []).append((min(i, j), distance, score))
    gone: dict[int, Drop] = {}  # by node
    for node in sorted(neighbours):
        staying = [each for each in neighbours[node] if each[0] not in gone]
        if staying and nodes[node] < own:
            other, distance, score = max(staying, key=lambda each: (nodes[each[0]] >= own, each[2], -each[0]))
            gone[node] = Drop("", int(nodes[other]), distance, score)
    drops = {}
    for row in np.flatnonzero(node_of >= 0)[: np.count_nonzero(node_of[:own] >= 0)].tolist():
        node = int(node_of[row])
        drop = gone.get(node, Drop("", int(nodes[node]), 0, 1.0))
        if drop.of != row:
            exact = "exact duplicate" if node not in gone else "near-duplicate"
            drops[row] = drop._replace(rule="in the evaluation set" if drop.of >= own else exact)
    return drops


def search_blocks(nodes: int) -> Sequence[Nodes]:
    """The nodes cut into blocks."""
    starts = range(0, nodes, SEARCHED)
    return [Nodes(number, start, min(SEARCHED, nodes - start)) for number, start in enumerate(starts)]


def read_edges(stage: JobStage, blocks: Sequence[Nodes]) -> NDArray[Any]:
    """All edges of the second stage."""
    parts = [np.frombuffer(part, EDGE) for part in stage.read(blocks)]
    return np.concatenate([np.zeros(0, EDGE), *parts])


def rows_of(inputs: Inputs, wanted: set[int]) -> Iterator[RecordItem]:
    """The items of some rows, in their order; blocks without any are not opened."""
    rows = np.array(sorted(wanted))
    for block in inputs.blocks:
        low, high = np.searchsorted(rows, (block.first, block.first + block.count))
        if low < high:
            yield from (item for item in read_block(block) if item.row in wanted)
