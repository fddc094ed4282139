"""What benchmarks/speed.py measures, each job in a process of its own, and the rows and tables that it leaves."""
