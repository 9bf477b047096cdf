"""Findings of chest reports by keywords: a `table` that people read and extend (`chest.yaml`), which findings a text
states, denies or doubts (`label`), scores of reports (`scores`), and how well the table reads labelled sentences
(`measure`, told by `quality`).
"""
