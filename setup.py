"""Maps the root folders planner, cost_model, models and deploy into the package nebula.

Everything else about the distribution stands in pyproject.toml.
"""

from setuptools import find_packages, setup

ROOT_FOLDERS = ("planner", "cost_model", "models", "deploy")


def packages() -> list[str]:
    """The packages of nebula/, then each root folder under its name inside nebula (links are skipped)."""
    linked = [pattern for folder in ROOT_FOLDERS for pattern in (folder, f"{folder}.*")]
    inside = [f"nebula.{name}" for name in find_packages("nebula", exclude=linked)]
    rooted = [
        f"nebula.{folder}{suffix}"
        for folder in ROOT_FOLDERS
        for suffix in ("", *(f".{name}" for name in find_packages(folder)))
    ]
    return ["nebula", *inside, *rooted]


setup(
    packages=packages(),
    package_dir={"nebula": "nebula", **{f"nebula.{folder}": folder for folder in ROOT_FOLDERS}},
)
