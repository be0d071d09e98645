"""The commands of `titans-trm`, one module each, imported only when asked for."""
