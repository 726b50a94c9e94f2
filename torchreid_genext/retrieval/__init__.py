"""Retrieval as pure functions on tensors: no configuration, no torchreid, no files but of saved time models."""
