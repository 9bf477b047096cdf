"""Published protocols: how a paper asked, decoded, scored and split, as data, so that a number can stand beside its.

A protocol is a YAML file here, `NAME.yaml`; each of its values names its source. `schema.py` says what such a file
holds and reads it. `official.py` reads the benchmark's own files, `generate.py` asks the model, `rules.py` scores
single answers and `measure.py` everything; `command.py` is the command line and the report, `submission.py` writes what
a benchmark's server takes.

A new protocol: a YAML file here. Where it needs another rule: an entry in `rules.py`, and its name in `schema.py`.
"""
