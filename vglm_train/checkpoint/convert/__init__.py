"""Weights in and out: every format is read into our names and written from them, a tensor at a time.

source.py          what a format's reader gives: our configuration and our names; what a writer gets
towers.py          frozen towers from files of their own
lavis.py, hugging_face.py (with hf_config.py), visualglm.py, bundle.py, components.py      a family of formats each
registry.py        which is which
commands.py, diff.py, merge.py      the commands
writers.py         files and folders that are there whole or not at all
"""
