"""Which sample comes when. Pure functions of the seed and the position, so nothing has to be saved.

shuffle.py         the order of a source's samples in an epoch
interleave.py      whose turn it is among sources and languages
mixture.py         both together: position in the stream -> sample
length_buckets.py  samples of like length side by side, within a few global batches
"""
