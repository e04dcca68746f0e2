"""Scripts that the processes of a launch run; a folder of their own, because Python puts it first on sys.path."""
