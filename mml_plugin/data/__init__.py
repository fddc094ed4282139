"""Data sets: where they come from, what they must look like, and the arrays that everything else works on."""
