"""A model over HTTP: `vglm serve BUNDLE`.

`__main__` reads the arguments and `server` runs uvicorn around the application of `app`. `openai_routes` and
`visualglm` are the two contracts, over `answering`, which hands questions to the model's scheduler and its answers back
to the event loop. `access` says who may ask, `middleware` bounds what is sent, writes the access log and counts.
"""
