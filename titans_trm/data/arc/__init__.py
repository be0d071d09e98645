"""The Abstraction and Reasoning Corpus."""
