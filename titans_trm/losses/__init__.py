"""Loss terms of deep supervision: cross-entropy, halting, halting diversity. Torch only."""
