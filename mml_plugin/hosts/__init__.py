"""Libraries that we plug into without editing them; one package per host, compatibility shims nowhere else."""
