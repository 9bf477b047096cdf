"""`python -m vglm_train.web BUNDLE`: a page in the browser to talk about pictures."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vglm_train.chat.options import add_model_options, add_sampling_options, open_model, sampling_of
from vglm_train.command import program, run_command
from vglm_train.errors import UserError

TOKEN = "VGLM_TOKEN"
SHORTEST = 16  # characters of a token
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for a mistake to mend, 130 if stopped."""
    args = _parser().parse_args(argv)
    return run_command(partial(_serve, args))


def _serve(args: argparse.Namespace) -> int:
    token = args.token or os.environ.get(TOKEN) or None
    if args.host not in LOOPBACK and token is None:
        raise UserError(
            f"--host {args.host} lets other machines in, and they need a token: give --token or set {TOKEN}."
        )
    if token is not None and len(token) < SHORTEST:
        raise UserError(f"the token has {len(token)} characters; at least {SHORTEST} cannot be guessed.")
    sampling = sampling_of(args)
    from vglm_train.web.notice import Notice, is_medical, verdict_page

    verdict = verdict_page(args.verdict, Path(args.bundle))
    print(f"opening {args.bundle} ...", file=sys.stderr, flush=True)
    from vglm_train.web.server import serve  # slow to import

    with open_model(args) as model:
        merged = [str(name) for name, _ in model.bundle.document.get("origin", {}).get("merged", [])]
        medical = is_medical(model.bundle.config, [*args.adapter, *merged]) if args.medical is None else args.medical
        serve(model, Notice(medical, verdict), sampling, args.host, args.port, token)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.web"), description="A page in the browser to talk about pictures.", allow_abbrev=False
    )
    add_model_options(parser)
    page = parser.add_argument_group("the page")
    add = page.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1: this machine only")
    add("--port", type=int, default=7860, metavar="N", help="default 7860")
    add("--token", metavar="TEXT", help=f"that people must give; needed for another --host (default: ${TOKEN})")
    add("--medical", action=argparse.BooleanOptionalAction, help="warn that it is no medical device "
        "(default: if the bundle was tuned for medicine, as far as it records that)")  # fmt: skip
    add("--verdict", metavar="PATH", help="the evaluation page that is linked (default: RUN/report/report.html)")
    add_sampling_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
