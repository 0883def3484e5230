"""`stagewright images`: the images in the store."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import format_age, print_json_lines, print_table, short_digest
from stagewright.cli.values import one_of
from stagewright.progress.text import format_bytes

if TYPE_CHECKING:
    from stagewright.api import ImageInfo


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("images", "List the images in the store.")
    parser.single(
        "--format",
        metavar="FORMAT",
        type=one_of("table", "json"),
        default="table",
        help="table, or json: one object a line",
    )
    parser.switch("--no-trunc", help="show whole digests")
    parser.switch("-q", "--quiet", help="print image IDs alone")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the images."""
    from stagewright.api import Store

    images = Store(root=options.root, config=options.config).images()
    if options.quiet:
        for image in images:
            print(_image_id(image, whole=options.no_trunc))
    elif options.format == "json":
        print_json_lines([_as_json(image) for image in images])
    else:
        now = time.time()
        rows = [
            (
                image.name,
                _image_id(image, whole=options.no_trunc),
                image.platform,
                format_age(image.created, now),
                format_bytes(image.size),
            )
            for image in images
        ]
        print_table(("NAME", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"), rows)
    return 0


def _image_id(image: ImageInfo, *, whole: bool) -> str:
    return image.config_digest if whole else short_digest(image.config_digest)


def _as_json(image: ImageInfo) -> dict[str, Any]:
    return {
        "name": image.name,
        "digest": image.digest,
        "config_digest": image.config_digest,
        "platform": image.platform,
        "created": image.created,
        "size": image.size,
    }
