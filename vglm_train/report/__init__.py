"""Curves and verdicts of training runs: is my loss normal? `python -m vglm_train.report RUN [RUN ...]`.

`runs` reads the run folders, `verdict` assesses them, `curves` draws the PNG, `page` writes the HTML. `html` and
`VerdictLine` serve other pages too. Nothing here imports torch.
"""
