"""What a build keeps to itself: its secrets, and the credentials in the URLs that it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from stagewright.options import BuildOptions
from stagewright.progress.events import Sink
from stagewright.progress.reporter import Emitter
from stagewright.redaction import credentials_in
from stagewright.registry.dockerconfig import proxy_arguments

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")


@contextmanager
def confidential(
    options: BuildOptions, env: Mapping[str, str], sink: Sink | None
) -> Iterator[tuple[Mapping[str, bytes], Emitter]]:
    """The secrets of a build by ID, and an emitter that masks them; so does what is raised within the block.

    Raises StagewrightError for a secret that cannot be read.
    """
    credentials = _credentials(options, env)
    if not options.secrets and not credentials:
        yield {}, Emitter(sink)
        return
    from stagewright.progress.masking import mask_error
    from stagewright.secrecy.masks import Masks
    from stagewright.sources.secrets import read_secrets

    secrets = read_secrets(options.secrets, env)
    masks = Masks([*secrets.values(), *credentials])
    try:
        yield secrets, Emitter(sink, masks)
    except BaseException as error:
        mask_error(error, masks)
        raise


def _credentials(options: BuildOptions, env: Mapping[str, str]) -> list[bytes]:
    urls = [options.context, *options.build_contexts.values()]
    for name, value in [*env.items(), *proxy_arguments(env).items(), *options.build_args.items()]:
        if name.lower() in _PROXIES:
            urls.append(value if "://" in value else f"http://{value}")
    keys: list[str] = []
    if options.cache_from or options.cache_to:
        from stagewright.travel.options import credentials_of

        keys = credentials_of([*options.cache_from, *options.cache_to], env)
    found = [*keys, *(text for url in urls for text in credentials_in(url))]
    return [text.encode(errors="surrogateescape") for text in found]
