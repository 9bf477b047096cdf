"""`python -m vglm_train.web BUNDLE`: a page in the browser to talk about pictures."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vglm_train.access import VARIABLE, Access, read_access
from vglm_train.chat.options import add_model_options, add_sampling_options, open_model, sampling_of
from vglm_train.command import ENDED, program, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 when it was stopped, 2 for a mistake to mend."""
    return run_command(partial(_serve, _parser().parse_args(argv)), ENDED)


def _serve(args: argparse.Namespace) -> int:
    access = read_access(args.host, args.token_file)
    sampling = sampling_of(args)
    # slow to import: after the arguments are read
    from vglm_train.web.notice import Notice, is_medical, recorded, verdict_page

    folder = Path(args.bundle)
    verdict = verdict_page(args.verdict, folder, args.adapter)
    print(f"opening {args.bundle} ...", file=sys.stderr, flush=True)
    from vglm_train.web.pages import Pages
    from vglm_train.web.server import build_app, serve

    with open_model(args) as model:
        bundle, medical = model.bundle, args.medical
        if medical is None:
            medical = is_medical(bundle.config, recorded(folder, bundle.document, args.base, args.adapter))
        if verdict is not None:
            print(f"the page links {verdict}", file=sys.stderr, flush=True)
        pages = Pages(model)
        app = build_app(pages, Notice(medical, verdict), sampling, access)
        serve(app, pages, args.host, args.port, partial(_say, access))
    return 0


def _say(access: Access, address: str) -> None:
    print(f"open {address}" + (" and give the token" if access.token else ""), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.web"), description="A page in the browser to talk about pictures.", allow_abbrev=False
    )
    add_model_options(parser)
    page = parser.add_argument_group("the page")
    add = page.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1); any other needs a token")
    add("--port", type=int, default=7860, help="default 7860; 0: any that is free")
    add("--token-file", metavar="FILE", help=f"a file with the token that people must give (or set {VARIABLE})")
    add("--medical", action=argparse.BooleanOptionalAction, help="warn that the model is no medical device (default: "
        "if what is recorded of its training says that it is about medicine)")  # fmt: skip
    add("--verdict", metavar="PATH", help="an evaluation's page, which is linked (default, beside the bundle: the "
        "newest that `vglm evaluate` wrote of it, else report/report.html)")  # fmt: skip
    add_sampling_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
