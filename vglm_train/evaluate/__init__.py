"""Scores of a model on held-out data: during a training run, and from a bundle by `python -m vglm_train.evaluate`.

A folder per task (`retrieval`, `caption`, `vqa` for vqa and report). In each, `evaluator.py` measures and `command.py`
is the command line around it. `metrics/` holds the scorers of single texts and answers, without a model. All names of
metrics (`eval/...`) are built in `vglm_train/config/metric_names.py`.

A new task: a folder with these two files, its names in `metric_names.py`, and a line in TASKS of `__main__.py`.

Nothing here imports `engine`, `data/dataset.py` or `data/loader.py`. The engine knows `evaluate/base.py` only.
"""
