"""Multiruns of `train.py`: jobs, search, table. Hydra finds them through `hydra_plugins/titans_trm_sweeps.py`."""
