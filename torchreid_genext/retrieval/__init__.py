"""Retrieval as pure functions on tensors: no files, no configuration, no torchreid."""
