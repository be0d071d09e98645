"""Tasks, splits, augmentation and the training stream."""
