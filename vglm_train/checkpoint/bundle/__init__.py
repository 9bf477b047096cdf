"""The portable result of a run.

format.py     what it is made of
read.py       the one way to open it: `open_bundle`
write.py      the one way to write it
adapter.py    what a fine-tuning adds
towers.py     its frozen parts
stage_one.py  a bundle as the beginning of another run
"""
