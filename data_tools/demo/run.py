"""The former name of examples.demo.run."""

from data_tools.common.cli import renamed

if __name__ == "__main__":
    renamed("data_tools.demo.run", "examples.demo.run")
