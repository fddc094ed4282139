"""What can be done with a finished run: recommend, export, evaluate. Needs its folder only (evaluate also
interactions), no host and no training.
"""
