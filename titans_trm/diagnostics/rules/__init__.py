"""The rules, one class each, by what they watch. `titans_trm.diagnostics.catalogue` puts them in causal order."""
