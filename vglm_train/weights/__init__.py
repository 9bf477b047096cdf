"""What a file or folder of weights is, told from names, first bytes and configuration files; nothing is loaded.

found.py       the answer, and files by their first bytes
identify.py    folders; `identify` for a person who asks, `require` for whoever is to read the weights of a model's part
"""
