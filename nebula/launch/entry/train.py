"""The script that every rank of `nebula train` runs."""

from nebula.launch.training import main

if __name__ == "__main__":
    main()
