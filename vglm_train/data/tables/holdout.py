"""Which rows of a table are kept for validation: those whose group, picture or content hashes below the share.

A pure function of what is kept together, so rows added later do not move any existing row between the sides,
several tables agree about a patient, and nothing needs to be stored.
"""

import numpy as np
from numpy.typing import NDArray

from vglm_train.config.data import Holdout
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError

_SALT = np.uint64(0x9E3779B97F4A7C15)


def held(table: Table, rows: NDArray[np.int64], holdout: Holdout) -> NDArray[np.bool_]:
    """[rows] True: kept for validation. UserError where nothing, or nothing else, would be."""
    keys = _keys(table, rows, holdout)
    kept = _spread(keys) < np.uint64(min(holdout.share * 2.0**64, 2.0**64 - 2048))
    together, chosen = len(np.unique(keys)), int(kept.sum())
    if chosen in (0, len(rows)):
        raise UserError(
            f"{table.path}: data.holdout.share {holdout.share:g} by {holdout.by} keeps {chosen} of {len(rows)} rows "
            f"for validation, since there are {together} different {holdout.by}s. Give another share, or a table of "
            "its own as data.validation."
        )
    if holdout.by != "group":
        _check_groups(table, rows, kept, holdout.by)
    return kept


def _keys(table: Table, rows: NDArray[np.int64], holdout: Holdout) -> NDArray[np.uint64]:
    index = table.index
    if holdout.by == "row":
        return index.contents[rows]
    if holdout.by == "image":
        return _together(table)[rows]
    if not table.columns.group:
        raise UserError(
            f"{table.path}: data.holdout.by is group, but no key of the rows is known to hold one (patient, study, "
            f"group); they have {', '.join(map(repr, table.schema.keys))}. Name it as fields.group of the source, or, "
            "if no two pictures belong together, hold out by image."
        )
    groups = index.groups[rows]
    if not groups.any():
        raise UserError(
            f"{table.path}: data.holdout.by is group, but {table.columns.group[0]!r} is empty in every row."
        )
    return np.where(groups == 0, _together(table)[rows], groups)


def _together(table: Table) -> NDArray[np.uint64]:
    """A key for each row that rows with a picture in common share: the smallest hash that can be reached."""
    index = table.index
    keys = index.pictures.copy()
    if not len(index.more):
        return keys
    rows = np.concatenate([np.arange(len(index), dtype=np.int64), index.more[:, 0].astype(np.int64)])
    names, members = np.unique(np.concatenate([index.pictures, index.more[:, 1]]), return_inverse=True)
    while True:
        smallest = names.copy()
        np.minimum.at(smallest, members, keys[rows])
        reached = keys.copy()
        np.minimum.at(reached, rows, smallest[members])
        if np.array_equal(reached, keys):
            return keys
        keys = reached


def _spread(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finish, so that the smallest of several hashes is as likely to be held as any."""
    x = keys + _SALT
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check_groups(table: Table, rows: NDArray[np.int64], kept: NDArray[np.bool_], by: str) -> None:
    """No patient on both sides, where the table names patients."""
    groups = table.index.groups[rows]
    shared = np.intersect1d(groups[kept & (groups != 0)], groups[~kept & (groups != 0)])
    if len(shared):
        example = table.where(int(rows[groups == shared[0]][0]))
        raise UserError(
            f"{table.path}: held out by {by}, {len(shared)} groups (key {table.columns.group[0]!r}) would have rows in "
            f"both training and validation, for instance that of {example}: the model would be judged on "
            "patients that it knows. Set data.holdout.by: group."
        )
