"""The former name of examples.marks.make_data."""

from data_tools.common.cli import renamed

if __name__ == "__main__":
    renamed("data_tools.demo.marks", "examples.marks.make_data")
