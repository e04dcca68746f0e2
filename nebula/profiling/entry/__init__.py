"""The script that the processes of a profile run; a folder of its own, because Python puts it first on sys.path."""
