"""Curves of runs beside a published one, and words: is my loss normal? `python -m vglm_train.report RUN [RUN ...]`."""
