"""What the linter knows of package managers: which commands download, and where their caches are."""

from __future__ import annotations

from stagewright.records import dataclass


@dataclass(frozen=True, slots=True)
class Tool:
    """A package manager.

    `fetches` are the first words of the commands that download. `targets` are the caches of root: in the images that
    `images` names, where it names some, and elsewhere `home_targets`. `options` are those of its mounts. `disabled`
    are flags that switch its cache off, `switches` variables that do so or move it, and `moved` variables that move it
    to known places. `cleared` is what a step removes to empty the cache, `cleanings` are the commands that do.
    `is_store` tells that later commands read from there, those of `runners`, too.
    """

    name: str
    programs: tuple[str, ...]
    fetches: tuple[tuple[str, ...], ...]
    targets: tuple[str, ...]
    images: tuple[str, ...] = ()
    home_targets: tuple[str, ...] = ()
    options: str = ""
    disabled: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    moved: tuple[tuple[str, tuple[str, ...]], ...] = ()
    cleared: tuple[str, ...] = ()
    cleanings: tuple[tuple[str, ...], ...] = ()
    is_store: bool = False
    runners: tuple[str, ...] = ()


APT = Tool(
    "apt",
    ("apt-get", "apt"),
    (("install",), ("upgrade",), ("dist-upgrade",), ("full-upgrade",)),
    # Of /var/lib/apt only the lists: beside them is what was installed for its own sake, which belongs to the image.
    ("/var/cache/apt", "/var/lib/apt/lists"),
    options=",sharing=locked",
    cleared=("/var/lib/apt",),
    cleanings=(("clean",), ("autoclean",), ("distclean",)),
)
TOOLS = (
    APT,
    Tool(
        "pip",
        ("pip", "pip3"),
        (("install",), ("wheel",), ("download",)),
        ("/root/.cache/pip",),
        disabled=("--no-cache-dir", "--no-cache"),
        switches=("PIP_NO_CACHE_DIR", "XDG_CACHE_HOME"),
        moved=(("PIP_CACHE_DIR", ("{}",)),),
        cleanings=(("cache", "purge"),),
    ),
    Tool(
        "uv",
        ("uv",),
        (("sync",), ("pip", "install"), ("pip", "sync"), ("tool", "install")),
        ("/root/.cache/uv",),
        disabled=("--no-cache", "-n"),
        switches=("UV_NO_CACHE", "XDG_CACHE_HOME"),
        moved=(("UV_CACHE_DIR", ("{}",)),),
        cleanings=(("cache", "clean"), ("cache", "prune")),
    ),
    Tool(
        "npm",
        ("npm",),
        (("ci",), ("install",), ("i",)),
        ("/root/.npm",),
        switches=("npm_config_cache", "NPM_CONFIG_CACHE"),
        cleanings=(("cache", "clean"),),
    ),
    Tool(
        "pnpm",
        ("pnpm",),
        (("install",), ("i",), ("fetch",)),
        ("/root/.local/share/pnpm/store",),
        switches=("XDG_DATA_HOME", "npm_config_store_dir"),
        moved=(("PNPM_HOME", ("{}/store",)),),
        cleanings=(("store", "prune"),),
        is_store=True,
    ),
    Tool(
        "yarn",
        ("yarn",),
        (("install",), ()),
        ("/usr/local/share/.cache/yarn",),
        moved=(("YARN_CACHE_FOLDER", ("{}",)),),
        cleanings=(("cache", "clean"),),
    ),
    Tool(
        "go",
        ("go",),
        (("mod", "download"), ("build",), ("install",), ("get",)),
        ("/go/pkg/mod", "/root/.cache/go-build"),
        images=("golang", "golangci-lint"),
        home_targets=("/root/go/pkg/mod", "/root/.cache/go-build"),
        switches=("GOMODCACHE", "GOCACHE", "XDG_CACHE_HOME"),
        moved=(("GOPATH", ("{}/pkg/mod", "/root/.cache/go-build")),),
        cleanings=(("clean",),),
        is_store=True,
        runners=("air", "dlv", "reflex"),
    ),
    Tool(
        "cargo",
        ("cargo",),
        (("build",), ("fetch",), ("install",), ("chef", "cook")),
        ("/usr/local/cargo/registry", "/usr/local/cargo/git"),
        images=("rust", "cargo-chef"),
        home_targets=("/root/.cargo/registry", "/root/.cargo/git"),
        moved=(("CARGO_HOME", ("{}/registry", "{}/git")),),
        is_store=True,
    ),
    Tool(
        "maven",
        ("mvn", "mvnw"),
        ((),),
        ("/root/.m2",),
        options=",sharing=locked",
        switches=("MAVEN_CONFIG", "MAVEN_OPTS", "MAVEN_ARGS"),
        is_store=True,
    ),
    Tool(
        "gradle",
        ("gradle", "gradlew"),
        ((),),
        ("/root/.gradle",),
        # Its locks are held by processes that those of another step cannot see.
        options=",sharing=locked",
        switches=("GRADLE_USER_HOME",),
        is_store=True,
    ),
)
# Programs that call no package manager, so that no store is needed where they run.
HARMLESS = frozenset(
    {"adduser", "addgroup", "apk", "apt", "apt-get", "cat", "cd", "chmod", "chown", "command", "cp", "curl", "dnf"}
    | {"echo", "exit", "export", "false", "find", "git", "grep", "groupadd", "groupmod", "install", "ln", "ls", "mkdir"}
    | {"mv", "printf", "rm", "sed", "set", "sha256sum", "sleep", "strip", "tar", "test", "touch", "true", "umask"}
    | {"unzip", "update-ca-certificates", "useradd", "usermod", "wget", "which", "yum", "["}
)
