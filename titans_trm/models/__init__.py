"""Pure `nn.Module`s of the model. Torch only: no optimiser, loader, logger or global state."""
