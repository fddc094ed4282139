"""What can be done with a finished run: recommend, export, evaluate. Needs its folder only, no host and no training."""
