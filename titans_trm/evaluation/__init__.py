"""Metrics, statistics and reports of a trained model; knows nothing of Lightning."""
