"""What the entry points do: configuration -> objects -> result dict. The only room that calls `instantiate`."""
