"""Advice on what a final image is when it runs: who its processes are, and which tools they find."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stagewright.dockerfile.ast import Cmd, Copy, Entrypoint, Expose, Healthcheck, Run, User, Volume
from stagewright.lint.findings import Edit, LintFinding, LintRule
from stagewright.lint.source import Source
from stagewright.patterns import pattern

RUNS_AS_ROOT = LintRule(
    "runs-as-root",
    "Run the final image as an ordinary user",
    "A process that is root inside needs one hole less to get out, and may change all files of its image.",
)
BUILD_TOOLS = LintRule(
    "build-tools-in-runtime",
    "Keep build tools and shells out of runtime stages",
    "They make the image larger, and are what an attacker looks for first.",
)

# Bases whose images run as root unless told otherwise, and whose programs need no root.
_ROOT_BASES = pattern(
    r"(?:docker\.io/)?(?:library/)?"
    r"(?:debian|ubuntu|alpine|python|node|golang|rust|ruby|openjdk|eclipse-temurin|amazoncorretto|php|perl|elixir|erlang"
    r"|fedora|centos|rockylinux|almalinux|amazonlinux|buildpack-deps|busybox)(?::[^@]*)?(?:@.*)?",
    re.IGNORECASE,
)
_BARE_BASES = pattern(
    r"(?:gcr\.io/distroless/(?:static|base|cc)(?:-debian\d+)?(?::(?!.*nonroot)[^@]*)?)(?:@.*)?", re.IGNORECASE
)
_TOOLS = frozenset(
    {"build-essential", "gcc", "g++", "make", "cmake", "clang", "build-base", "musl-dev", "cargo", "rustc", "golang"}
)
_COPIED_TOOLS = pattern(
    r"/(?:usr/)?(?:local/)?s?bin/(?:sh|bash|ash|dash|zsh|busybox|gcc|g\+\+|cc|make|ld|git|curl|wget)|/usr/local/(?:go|cargo|rustup)/?"
)
_INSTALLERS = {
    "apt-get": "install",
    "apt": "install",
    "apk": "add",
    "dnf": "install",
    "yum": "install",
    "microdnf": "install",
}
# Servers that begin as root and change the user themselves, as scripts named entrypoint do, and shells of people.
_MAY_NEED_ROOT = frozenset(
    {"apache2", "apache2-foreground", "apachectl", "bash", "containerd", "cron", "crond", "dnsmasq", "dockerd"}
    | {"dovecot", "gosu", "haproxy", "httpd", "init", "keepalived", "named", "nginx", "ntpd", "openvpn", "php-fpm"}
    | {"postfix", "rsyslogd", "s6-svscan", "setpriv", "sh", "smbd", "sshd", "su-exec", "sudo", "supervisord", "systemd"}
    | {"tini", "vsftpd", "wg-quick"}
)


def runs_as_root(source: Source) -> Iterator[LintFinding]:
    """A final stage with something to run and nobody to run it as, on a base that is known to be root's."""
    chain = source.chain(source.final)
    items = [item for stage in chain for item in stage.instructions]
    commands = [item for item in items if isinstance(item, Cmd | Entrypoint)]
    if not commands or any(
        isinstance(item, User) and item.text not in ("root", "0", "0:0", "root:root") for item in items
    ):
        return
    words = [word for item in commands for word in _words(item)]
    if any(word in _MAY_NEED_ROOT or "entrypoint" in word for word in words):
        return
    base = source.image(source.final)
    bare = base.lower() == "scratch" or _BARE_BASES.fullmatch(base) is not None
    if not bare and _ROOT_BASES.fullmatch(base) is None:
        return
    last = [item for item in items if isinstance(item, User)]
    what = "USER is root" if last else "there is no USER"
    message = f"the final image runs as root: {what}"
    edits = () if last else _with_user(source, base)
    yield LintFinding(RUNS_AS_ROOT, message, (last or commands)[-1].location if last else source.final.location, edits)


def _words(item: Cmd | Entrypoint) -> list[str]:
    return [word.rpartition("/")[2] for word in " ".join(item.command).split()]


def _with_user(source: Source, base: str) -> tuple[Edit, ...]:
    """A USER before what the final stage runs; only where that is the stage's end, so that no step changes."""
    items = source.final.instructions
    first = next((at for at, item in enumerate(items) if isinstance(item, Cmd | Entrypoint)), None)
    if first is None or not all(isinstance(item, Cmd | Entrypoint | Expose | Healthcheck) for item in items[first:]):
        return ()
    if any(isinstance(item, Volume) for stage in source.chain(source.final) for item in stage.instructions):
        return ()  # What is written there would have to be this user's.
    name = base.rpartition("/")[2]
    user = "65534:65534"
    if re.match(r"node(?=[:@]|$)", name):
        user = "node"
    elif _BARE_BASES.fullmatch(base):
        user = "65532:65532"  # Who is called nonroot there.
    return (source.insert_before(items[first].location, f"USER {user}"),)


def build_tools(source: Source) -> Iterator[LintFinding]:
    """Compilers installed in, and shells and tools copied into, the final stage of a multi-stage Dockerfile."""
    final = source.final
    copies = [item for item in final.instructions if isinstance(item, Copy) and item.from_name]
    if len(source.stages) < 2 or not copies:
        return
    for step in source.steps(final):
        names = [
            word.partition("=")[0]
            for command in step.commands
            if _INSTALLERS.get(command.program, "-") in command.words[:1]
            for word in command.words[1:]
        ]
        removed = [
            word
            for c in step.commands
            if c.words[:1] in (("purge",), ("remove",), ("del",), ("autoremove",))
            for word in c.words
        ]
        tools = [name for name in names if name in _TOOLS and name not in removed]
        virtual = any(command.has("--virtual", "-t") for command in step.commands)
        if tools and not virtual:
            message = f"the runtime stage installs {', '.join(tools)}; do in a stage of its own what needs them"
            yield LintFinding(BUILD_TOOLS, message, step.run.location)
    for copy in copies:
        tools = [path for path in copy.sources if _COPIED_TOOLS.fullmatch(path)]
        if tools:
            message = f"the runtime stage gets {', '.join(tools)}"
            unused = len(tools) == len(copy.sources) and not _may_call(source)
            edits = (source.remove(copy.location),) if unused else ()
            yield LintFinding(BUILD_TOOLS, message, copy.location, edits)


def _may_call(source: Source) -> bool:
    """Whether something in the final stage may use a shell or a tool: a step, or a command that a shell reads."""
    return any(
        isinstance(item, Run | Healthcheck)
        or (isinstance(item, Cmd | Entrypoint) and (item.shell_form or len(item.command) != 1))
        for item in source.final.instructions
    )
