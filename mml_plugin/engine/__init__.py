"""The fast engine: recbox's mathematics on sampled scores, without its tensors. docs/engines.md tells how."""
