"""Where does a plan run? Texts for Slurm and Kubernetes from the templates beside this file. Nothing is submitted."""

if __name__ != "nebula.deploy":
    raise ImportError("this folder is the package nebula.deploy: write `import nebula.deploy`")
