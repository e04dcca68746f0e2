"""What `make bench` measures: each module has `rows()`, each row a figure with its promise."""
