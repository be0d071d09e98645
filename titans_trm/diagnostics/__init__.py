"""Diagnostics of a training run: signals, rules that read them, one alarm per cause. Torch and the standard library."""
