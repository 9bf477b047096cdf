"""The losses: ITC, ITM (with its hard negatives, `matching.py`) and ITG of stage one, next-token loss of stage two.

May not import engine, stages or anything above them. The engine knows `objective.base` alone.
"""
