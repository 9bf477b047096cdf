"""The Q-Former: qformer.py (its passes), layers.py (its blocks), masks.py (who attends to whom), cuda_graphs.py (passes
recorded for GPUs that wait for launches).
"""
