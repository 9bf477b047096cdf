"""Two results of `vglm evaluate` over the same questions: `read` matches them one by one, `differences` tests each
metric by a paired bootstrap, `page` shows it in English and Chinese.
"""
