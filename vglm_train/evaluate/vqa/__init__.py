"""Tasks vqa and report: `select` questions, `generate` answers, give them `scores`, compare with
baselines: the `majority` answer, and the model shown another image or a grey one (`generate` too).

`evaluator` runs these steps. For the command, `intervals`, `verdict` and `page` say what the scores are worth. On the
page of `blind` a person answers first.
"""
