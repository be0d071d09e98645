"""Training with Lightning: module, data, slots and callbacks."""
