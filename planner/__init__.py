"""What should we do: the best way to split a model over a cluster, why, and how far from the best it can be."""

if __name__ != "nebula.planner":
    raise ImportError("this folder is the package nebula.planner: write `import nebula.planner`")
