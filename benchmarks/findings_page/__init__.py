"""The page that benchmarks/findings.py writes, a module per subject."""
