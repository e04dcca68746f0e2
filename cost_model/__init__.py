if __name__ != "nebula.cost_model":
    raise ImportError("this folder is the package nebula.cost_model: write `import nebula.cost_model`")
