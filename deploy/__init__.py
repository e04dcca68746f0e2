if __name__ != "nebula.deploy":
    raise ImportError("this folder is the package nebula.deploy: write `import nebula.deploy`")
