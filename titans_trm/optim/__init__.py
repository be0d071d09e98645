"""Optimisers, parameter groups and learning-rate schedules. Torch only."""
