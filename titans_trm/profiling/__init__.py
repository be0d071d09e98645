"""What a run costs before and while it runs: FLOPs, memory, latency. Torch only, no Lightning."""
