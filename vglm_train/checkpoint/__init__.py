"""Weights and states on disk.

bundle/    the portable result of a run: opened by read.py, written by write.py
load/      published weights into our models
keymaps/   tables of names: theirs and ours
convert/   the commands import, export, merge, inspect, diff
resume.py, run_folder.py    what a run continues from
"""
