"""Tasks vqa and report: `select` questions, `generate` answers, give them `scores`, compare with a `majority` baseline.

`evaluator` runs these steps. For the command, `intervals`, `verdict` and `page` say what the scores are worth.
"""
