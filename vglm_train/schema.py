"""`vglm schema`: the configuration as a JSON schema, for editors that complete and check YAML by it."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vglm_train.command import program, run_command
from vglm_train.config.schema import schema
from vglm_train.files import write_text

LINE = "# yaml-language-server: $schema=schema.json"
USE = f"Name it in the first line of a YAML file, with its path from there:\n\n    {LINE}"


def schema_text() -> str:
    """What configs/schema.json holds."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 2 where the file cannot be written."""
    layout = argparse.RawDescriptionHelpFormatter
    text = f"The configuration as a JSON schema. {USE}"
    parser = argparse.ArgumentParser(prog=program("vglm_train.schema"), description=text, formatter_class=layout)
    parser.add_argument("--out", type=Path, help="file to write (default: print it)")
    return run_command(partial(_write, parser.parse_args(argv).out))


def _write(out: Path | None) -> int:
    if out is None:
        print(schema_text(), end="")
        return 0
    write_text(out, schema_text())
    print(f"written: {out}. {USE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
