"""`vglm serve BUNDLE`: answer over HTTP, as OpenAI's API and as VisualGLM's."""

import argparse
import ipaddress
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vglm_train.access import VARIABLE, read_access
from vglm_train.chat.options import add_model_options, add_sampling_options, open_model, sampling_of
from vglm_train.command import ENDED, program, run_command
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError

if TYPE_CHECKING:
    from vglm_train.serve.pictures import Pictures

MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 when it was stopped, 2 for a mistake to mend."""
    return run_command(partial(_serve, _parser().parse_args(argv)), ENDED)


def _serve(args: argparse.Namespace) -> int:
    access = read_access(args.host, args.token_file)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    from vglm_train.chat.request import Limits  # slow to import: after the arguments are read
    from vglm_train.serve.answering import Serving
    from vglm_train.serve.limits import ServeLimits
    from vglm_train.serve.server import run

    if not Path(args.bundle).exists():
        raise UserError(f"{args.bundle}: no such file or folder; give a bundle, such as RUN/bundle.")
    sampling = sampling_of(args)
    try:
        limits = Limits(rows=args.rows, queue=args.queue, new=args.longest_answer, seconds=args.seconds)
        own = ServeLimits(
            body=int(args.body_mib * MIB), pictures=args.pictures, characters=args.characters,
            messages=args.messages, grace=args.grace,
        )  # fmt: skip
    except FieldError as error:
        raise UserError(f"a limit is wrong: {error}") from error
    serving = Serving(args.name or name_of(Path(args.bundle)), own, sampling, _pictures(args))
    return run(partial(open_model, args, limits), serving, access, args.port)


def _pictures(args: argparse.Namespace) -> "Pictures":
    """How pictures are taken. UserError for a limit or a host that is none."""
    from vglm_train.chat.intake import Intake
    from vglm_train.image import ImageLimits
    from vglm_train.serve.fetch import Fetcher, FetchRules
    from vglm_train.serve.pictures import Pictures

    try:
        image = ImageLimits(bytes=int(args.picture_mib * MIB), pixels=int(args.megapixels * 1e6))
        intake = Intake(image=image, pictures=args.pictures)
        networks = tuple(ipaddress.ip_network(each) for each in args.image_network)
    except FieldError as error:
        raise UserError(f"a limit is wrong: {error}") from error
    except ValueError as error:
        raise UserError(f"--image-network: {error}; give one such as 10.1.0.0/16.") from error
    if not args.image_host:
        return Pictures(intake)
    return Pictures(intake, Fetcher(FetchRules(hosts=tuple(args.image_host), plain=args.image_http, networks=networks)))


def name_of(bundle: Path) -> str:
    """What clients call the model: the folder's name; RUN for RUN/bundle."""
    folder = bundle.resolve()
    return folder.parent.name if folder.name == "bundle" and folder.parent.name else folder.name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.serve"),
        description="Answer questions about pictures over HTTP: POST /v1/chat/completions as OpenAI's API, and POST / "
        "as VisualGLM's. Also GET /v1/models, /health, /ready and /metrics.",
        allow_abbrev=False,
    )
    add_model_options(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1); any other needs a token")
    add("--port", type=int, default=8000, help="default 8000; 0: any that is free, which the log names")
    add("--token-file", metavar="FILE", help=f"a file with the token that clients must give (or set {VARIABLE})")
    add("--name", help="what clients call the model (default: the bundle's folder)")
    add_sampling_options(parser)
    limits = parser.add_argument_group("limits")
    for option, kind, default, words in (
        ("--rows", int, 32, "answers that are written at once"),
        ("--queue", int, 256, "questions that wait; further ones get 429"),
        ("--longest-answer", int, 2048, "tokens that a request may ask for"),
        ("--seconds", float, 600.0, "from a question to the end of its answer"),
        ("--body-mib", float, 32.0, "MiB of a request"),
        ("--picture-mib", float, 20.0, "MiB of a picture's file"),
        ("--megapixels", float, 50.0, "million pixels of a picture"),
        ("--pictures", int, 16, "pictures of a request"),
        ("--characters", int, 32768, "characters of a conversation"),
        ("--messages", int, 128, "messages of a conversation"),
        ("--grace", float, 30.0, "seconds that answers may take to finish when the server is stopped"),
    ):
        limits.add_argument(option, type=kind, default=default, metavar="N", help=f"{words} (default {default:g})")
    urls = parser.add_argument_group("pictures by URL (refused unless a host is named)")
    add = urls.add_argument
    add("--image-host", action="append", default=[], metavar="NAME", help="a host, or *.example.org; may be repeated")
    add("--image-http", action="store_true", help="http too; without it, https alone")
    add("--image-network", action="append", default=[], metavar="A.B.C.D/N", help="private addresses hosts may have")
    return parser


if __name__ == "__main__":
    sys.exit(main())
