if __name__ != "nebula.planner":
    raise ImportError("this folder is the package nebula.planner: write `import nebula.planner`")
