"""The networks: image encoders, Q-Former, language models, adapters, and each stage's model made of them. No losses.

May not import vglm_train.data, nor objective, engine, stages or anything above them, nor torch.distributed. A model
takes a `batch.Batch` and its sections of `config`.
"""
