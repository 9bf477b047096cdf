"""The way of a sample, from shard to batch:

1. `shards/tar.py` finds where each sample of a tar lies; `tables/readers.py` does it for JSON, CSV and the like.
2. `sampling/mixture.py` says which sample is at each position of the stream, by `sampling/shuffle.py` and
   `sampling/interleave.py`; `sampling/length_buckets.py` may sort the positions of a batch.
3. `shards/reader.py` reads a sample's bytes (`remote/` fetches them), and `sample.py` parses them or names the damage.
4. `processors.py` makes token ids of its text, `sample.py` pixels of its pictures (or `features/` stored features).
5. `dataset.py` collates a batch, and `loader.py` runs it in worker processes.
"""
