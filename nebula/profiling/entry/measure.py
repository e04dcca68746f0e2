"""The script that every rank of `nebula profile` runs."""

from nebula.profiling.worker import main

if __name__ == "__main__":
    main()
