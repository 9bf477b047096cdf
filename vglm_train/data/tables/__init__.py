"""Rows of people's files (JSON, JSONL, CSV, TSV, tars, Parquet, published data sets) as samples.

A new file format: a class as in `base.py` and an entry in `FORMATS` of `readers.py`. A data set with keys of its own:
`layouts/rows.py`. Usual keys: `fields.py`. Rows of another shape: `canonical.py`. table.py cuts a table into slices
that stand for shards. holdout.py and leaks.py keep training and validation apart.
"""
