"""What a run records: metrics, tables and samples on disk, the console, W&B, alarms and throughput.

May import only config, batch, image, distributed, signals, command and errors. `train/`, `perf/` and `data/`
metrics get their names in `engine/hooks.py`, `eval/` metrics in `config/metric_names.py`.
"""
