"""Weights in and out: every format is read into our names and written from them, a tensor at a time.

lazy.py        tensors that are read when they are asked for, tables applied to them
source.py      what a format's reader gives: our configuration and our names; what a writer gets
lavis.py, hugging_face.py, visualglm.py, bundles.py, parts.py      a family of formats each
formats.py     which is which
importing.py, exporting.py, inspecting.py, diffing.py      the four commands
writing.py     files and folders that are there whole or not at all
"""
