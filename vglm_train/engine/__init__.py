"""Training: the loop, DeepSpeed, learning rate and parameter groups, the run's progress, and the hooks after a step.

May not import data, model or prompt; of objective, checkpoint and evaluate only `objective.base`, `checkpoint.resume`
and `evaluate.base`. It drives whatever objective and loader a stage gives it.
"""
