"""Retrieval as pure functions on tensors: no configuration, no torchreid; files only of saved time models."""
