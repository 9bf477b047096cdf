"""Tar shards on this machine.

reader.py    samples of a shard, or of a slice of a table, by their number
tar.py       where each sample lies in a tar
tar_members.py  the members of a tar
index.py     the same kept in a file beside the tar, with languages and lengths of captions
manifest.py  which shards there are
address.py   how the path or address of a shard is written
"""
