"""From text to ids and back: dialogues, prompt templates, tokenizers. The same objects train, evaluate and chat.

`dialogue` is the text itself. `template` is what all prompts share. `blip2` and `visualglm` are the formats of the
model families, and `build` chooses between them. `tokenizers` and `chatglm` are the language models' tokenizers,
`qformer_text` is the Q-Former's.

A new family's prompt: a subclass of `Template` in a file of its own, its name in `Prompt.style` of
`config/language.py`, and a line in `build.py`.

Nothing here imports `data` or `model`, which both import it. Only `tokenizers` and `qformer_text` import transformers.
"""
