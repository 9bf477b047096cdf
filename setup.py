"""What pyproject.toml cannot say: folders that stand beside the package are shipped inside it.

These are `data_tools/`, `benchmarks/` and `configs/`. `vglm_train/shipped.py` finds them. In a wheel no top-level name
but `vglm_train` is taken. Which of their files are shipped is in pyproject.toml, because a list there replaces one
here.
"""

from setuptools import find_packages, setup

SHIPPED = "vglm_train._shipped"
DATA_TOOLS = ["data_tools", *(f"data_tools.{name}" for name in find_packages("data_tools"))]

setup(
    packages=[
        *find_packages(include=["vglm_train", "vglm_train.*"]),
        *(f"{SHIPPED}.{name}" for name in DATA_TOOLS),
        f"{SHIPPED}.benchmarks",
        f"{SHIPPED}.configs",
    ],
    package_dir={
        f"{SHIPPED}.data_tools": "data_tools",
        f"{SHIPPED}.benchmarks": "benchmarks",
        f"{SHIPPED}.configs": "configs",
    },
)
