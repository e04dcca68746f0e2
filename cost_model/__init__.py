"""What a plan costs: compute, communication, memory and the pipeline's schedule, priced without running anything."""

if __name__ != "nebula.cost_model":
    raise ImportError("this folder is the package nebula.cost_model: write `import nebula.cost_model`")
