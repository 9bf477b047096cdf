"""The commands that make data.

A folder for each: `__main__.py` is the command line, the other modules are its work. What a worker process runs stands
in such a module, since a function in `__main__` cannot be sent to one. What several commands need is in `common/`.
`ice_text.py` and `demo/` only tell where the commands of these names are now.
"""
