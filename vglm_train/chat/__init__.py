"""Talking to a trained model: `python -m vglm_train.chat BUNDLE`, or `vglm_train.load(BUNDLE)`.

`model` is what programs use. `scheduler` decodes the requests of all of them together, over `cohort` (rows that are
decoded at once), `features` (image tokens that are kept) and `text` (ids that become text while they come).
`images` and `history` read what people give. `terminal` and `batch` are the two ways of the command.
"""
