"""The networks: image encoders, Q-Former, language models, adapters, and each stage's model made of them. No losses.

May import config, batch, image, distributed, log, prompt and errors. May not import data, objective, checkpoint,
evaluate, engine, stages, run or describe, nor torch.distributed; tests/test_imports.py checks it. A model takes a
`batch.Batch` and its sections of `config`.
"""
