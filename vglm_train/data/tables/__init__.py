"""Rows of people's files (JSON, JSONL, CSV, TSV, COCO, saved `datasets`) as samples.

A new file format: a class as in `base.py` and a case in `readers.py`. Keys of a new data set: `fields.py`. Rows of
another shape: `canonical.py`. table.py cuts a table into slices that stand for shards. holdout.py and leaks.py keep
training and validation apart.
"""
