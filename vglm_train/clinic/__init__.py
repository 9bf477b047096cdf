"""From a hospital's folder and its reports to a verdict, with one command: `vglm clinic`.

Each step is another command of `vglm`, run as a process of its own and printed as a person would type it (`plan`,
`runner`). OUT/clinic.json says what is done, and what the first start was given (`state`). `recipe` chooses how to
train by the memory of the card, `verdict` puts the result into a sentence and a page.
"""
