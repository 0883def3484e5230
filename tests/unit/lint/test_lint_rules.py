"""What each rule of the linter finds, what it leaves alone, and what its rewrite is."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from stagewright.lint.findings import LintFinding
from stagewright.lint.linter import fix, lint


def found(text: str, rule: str, context: Path | None = None) -> list[LintFinding]:
    data = dedent(text).lstrip("\n").encode()
    return [item for item in lint(data, "Dockerfile", str(context) if context else None) if item.rule.name == rule]


def mended(text: str, rule: str, context: Path | None = None) -> str:
    """The text with the first finding of a rule mended."""
    from stagewright.lint.findings import apply

    whole = dedent(text).lstrip("\n")
    (first, *_) = found(text, rule, context)
    return apply(whole, [first])[0]


def test_a_copy_from_an_index_gets_a_name() -> None:
    text = """
        FROM a
        RUN x
        FROM b
        COPY --from=0 /x /x
        COPY --chown=1 --from=0 /y /y
    """
    assert [item.location.start for item in found(text, "copy-from-index")] == [4, 5]
    done = fix(dedent(text).lstrip("\n").encode(), "Dockerfile")
    assert "FROM a AS build\n" in done.text
    assert done.text.count("--from=build") == 2
    assert not [item for item in done.left if item.rule.name == "copy-from-index"]


def test_a_name_that_is_there_is_taken() -> None:
    text = "FROM a as Deps\nFROM b\nCOPY --from=0 /x /x\n"
    assert mended(text, "copy-from-index") == "FROM a as Deps\nFROM b\nCOPY --from=Deps /x /x\n"


@pytest.mark.parametrize(
    "line",
    [
        "ARG NPM_TOKEN",
        "ARG GITHUB_TOKEN=abc123def",
        "ENV DB_PASSWORD=hunter2",
        "ENV A=1 API_KEY=k3y",
        "COPY id_rsa /root/.ssh/",
        "COPY .aws/credentials /root/.aws/",
        "COPY .npmrc package.json ./",
        "RUN git clone https://me:ghs3cret@example.com/x.git",
        "RUN echo ghp_0123456789abcdefghijABCDEFGHIJ012345 > /t",
        "RUN aws configure set aws_access_key_id AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_secrets_that_stay(line: str) -> None:
    assert len(found(f"FROM a\n{line}\n", "baked-secret")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "ARG TOKEN_URL",
        "ENV PASSWORD_FILE=/run/secrets/password",
        "ENV KEYBOARD=us PUBLIC_KEY_PATH=/k",
        "ENV SECRET_KEY=changeme",
        "ENV ALLOW_EMPTY_PASSWORD=yes",
        "COPY --from=build /root/.npmrc /x",
        "COPY package.json ./",
        "RUN --mount=type=secret,id=npmrc,target=/root/.npmrc npm ci",
        "RUN git clone https://$USER:$TOKEN@example.com/x.git",
        "RUN curl https://example.com:8443/path@1.0",
    ],
)
def test_what_is_no_secret(line: str) -> None:
    assert found(f"FROM a\n{line}\n", "baked-secret") == []


def test_an_npmrc_of_settings_is_none(tmp_path: Path) -> None:
    (tmp_path / ".npmrc").write_text("engine-strict=true\n//r.example.com/:_authToken=${NPM_TOKEN}\n")
    text = "FROM a\nWORKDIR /app\nCOPY package.json .npmrc ./\nRUN npm ci\n"
    assert found(text, "baked-secret", tmp_path) == []
    (tmp_path / ".npmrc").write_text("//r.example.com/:_authToken=npm_secret\n")
    assert mended(text, "baked-secret", tmp_path) == (
        "FROM a\nWORKDIR /app\nCOPY package.json ./\n"
        "RUN --mount=type=secret,id=npmrc,target=/app/.npmrc \\\n    npm ci\n"
    )


def test_an_argument_becomes_a_secret() -> None:
    text = "FROM a AS x\nARG NPM_TOKEN\nRUN a $NPM_TOKEN\nRUN chmod b\nFROM x\nRUN npm ci\n"
    flag = "--mount=type=secret,id=NPM_TOKEN,env=NPM_TOKEN"
    # npm reads it by itself, as files may name it.
    assert mended(text, "baked-secret") == (
        f"FROM a AS x\nRUN {flag} \\\n    a $NPM_TOKEN\nRUN chmod b\nFROM x\nRUN {flag} \\\n    npm ci\n"
    )


@pytest.mark.parametrize(
    ("install", "target"),
    [
        ("apt-get update && apt-get install -y git", "/var/cache/apt,sharing=locked"),
        ("pip install flask", "/root/.cache/pip"),
        ("python3 -m pip install flask", "/root/.cache/pip"),
        ("python -m venv /x", None),
        ("go version", None),
        ("mvn -v", None),
        ("mvn -B -o package", None),
        ("pip install --no-index x.whl", None),
        ("uv sync --frozen", "/root/.cache/uv"),
        ("uv pip install --system x", "/root/.cache/uv"),
        ("npm ci", "/root/.npm"),
        ("npm install -g typescript", "/root/.npm"),
        ("pnpm install --frozen-lockfile", "/root/.local/share/pnpm/store"),
        ("go build -v ./...", "/root/go/pkg/mod"),
        ("cargo build --release", "/root/.cargo/registry"),
        ("./mvnw -B package", "/root/.m2,sharing=locked"),
        ("gradle build", "/root/.gradle,sharing=locked"),
        ("npm run build", None),
        ("npm --version", None),
        ("yarn build", None),
        ("echo npm ci", None),
        ("# npm ci\ntrue", None),
    ],
)
def test_installs_without_a_cache_mount(install: str, target: str | None) -> None:
    text = f"FROM debian\nRUN {install}\n" if "\n" not in install else f"FROM debian\nRUN <<EOF\n{install}\nEOF\n"
    rule = "no-cache-mount"
    if target is None:
        assert found(text, rule) == []
    else:
        assert f"--mount=type=cache,target={target}" in mended(text, rule)
        assert found(mended(text, rule), rule) == []


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nUSER app\nRUN pip install x\n",
        "FROM a\nENV PIP_NO_CACHE_DIR=1\nRUN pip install x\n",
        "FROM a\nRUN --mount=type=cache,target=/pip-cache pip install x\n",
        "FROM a\nRUN --mount=type=cache,id=pnpm,target=/pnpm/store pnpm i\n",
    ],
)
def test_installs_that_are_left_alone(text: str) -> None:
    assert found(text, "no-cache-mount") == []


APT = (
    "--mount=type=cache,target=/var/cache/apt,sharing=locked \\\n"
    "    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \\\n    "
)
CLEAN = "rm -f /etc/apt/apt.conf.d/docker-clean"


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (
            "apt-get update && apt-get install -y git \\\n    && rm -rf /var/lib/apt/lists/*",
            f"{APT}{CLEAN} && \\\n    apt-get update && apt-get install -y git",
        ),
        (
            "set -eux; \\\n\tapt-get update; \\\n\tapt-get install -y git; \\\n\trm -rf /var/lib/apt/lists/*; \\\n"
            "\tgit x",
            f"{APT}{CLEAN} && \\\n    set -eux; \\\n\tapt-get update; \\\n\tapt-get install -y git; \\\n\tgit x",
        ),
        (
            "apt-get update && apt-get install -y \\\n    git \\\n    # no lists\n\n    && apt-get clean \\\n"
            "    && rm -rf /var/lib/apt/lists/* /tmp/* /var/cache/apt/archives",
            f"{APT}{CLEAN} && \\\n    apt-get update && apt-get install -y \\\n    git \\\n    && rm -rf /tmp/*",
        ),
        (
            "rm -rf /var/lib/apt/lists/* && apt-get update && apt-get install -y x",
            f"{APT}{CLEAN} && \\\n    apt-get update && apt-get install -y x",
        ),
        ("DEBIAN_FRONTEND=noninteractive apt-get install -y x",
         f"{APT}{CLEAN} && \\\n    apt-get update && \\\n    DEBIAN_FRONTEND=noninteractive apt-get install -y x"),
        (
            "if a; then apt-get update && apt-get install -y x && rm -rf /var/lib/apt/lists/*; fi",
            f"{APT}{CLEAN} && \\\n    if a; then apt-get update && apt-get install -y x; fi",
        ),
        (
            "apt update && apt install -y x",
            f"{APT}{CLEAN} && \\\n    echo 'Binary::apt::APT::Keep-Downloaded-Packages \"true\";' >"
            " /etc/apt/apt.conf.d/keep-cache && \\\n    apt update && apt install -y x",
        ),
        (
            "<<-EOF\n\tapt-get update\n\tapt-get install -y x\n\trm -rf /var/lib/apt/lists/*\nEOF",
            f"{APT}<<-EOF\n\t{CLEAN}\napt-get update\n\tapt-get install -y x\nEOF",
        ),
        # What an edit cannot tell is left to people.
        ("apt-get update && apt-get install -y x && rm -rf /var/lib/*", None),
        ("apt-get update && apt-get install -y x; rm -rf /var/lib/apt/lists/* || true", None),
        ("apt-get update; if a; then rm -rf /var/lib/apt/lists/*; fi; apt-get install -y x", None),
        ('["sh", "-c", "apt-get update && apt-get install -y x"]', None),
        ("x || apt-get install -y y", None),
    ],
)  # fmt: skip
def test_caches_for_apt(run: str, expected: str | None) -> None:
    text = f"FROM debian\nRUN {run}\nCOPY a b\n"
    if expected is None:
        assert [item.edits for item in found(text, "no-cache-mount")] == [()]
    else:
        assert mended(text, "no-cache-mount") == f"FROM debian\nRUN {expected}\nCOPY a b\n"


@pytest.mark.parametrize(
    ("base", "run", "expected"),
    [
        ("python", "pip install --no-cache-dir x", "pip install x"),
        ("python", "pip install \\\n    --no-cache-dir \\\n    x", "pip install \\\n    x"),
        ("python", "echo -n a && uv sync -n", "echo -n a && uv sync"),
        ("python", "pip install x && rm -rf ~/.cache/pip /tmp/x", "pip install x && rm -rf /tmp/x"),
        ("python", "pip install x && rm -rf /root/.cache", None),
        ("node", "npm ci && npm cache clean --force", "npm ci"),
        ("node", "npm ci; npm cache clean --force; ls", "npm ci; ls"),
        ("node", "npm ci && (npm cache clean --force || true)", None),
        ("airflow/airflow", "pip install x", None),
    ],
)
def test_what_would_empty_other_caches(base: str, run: str, expected: str | None) -> None:
    text = f"FROM {base}\nRUN {run}\n"
    if expected is None:
        assert [item.edits for item in found(text, "no-cache-mount")] == [()]
    else:
        assert mended(text, "no-cache-mount").partition(" \\\n    ")[2] == f"{expected}\n"


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("FROM golang\nRUN go build", ["/go/pkg/mod", "/root/.cache/go-build"]),
        ("FROM golang\nENV GOPATH=/g\nRUN go build", ["/g/pkg/mod", "/root/.cache/go-build"]),
        ("FROM docker.io/library/rust:1\nRUN cargo build", ["/usr/local/cargo/registry", "/usr/local/cargo/git"]),
        ("FROM rust\nENV CARGO_HOME=/c\nRUN cargo build", ["/c/registry", "/c/git"]),
        ('FROM node\nENV PNPM_HOME="/pnpm"\nRUN pnpm i', ["/pnpm/store"]),
        ("FROM python\nENV HOME=/h\nRUN pip install x", []),
        ("FROM r.example.com/team/go\nRUN go build", []),
        ("FROM maven\nCOPY settings.xml /root/.m2/\nRUN mvn package", []),
        ("FROM maven\nRUN mkdir -p ~/.m2 && cp x ~/.m2/\nRUN mvn package", []),
    ],
)
def test_where_caches_are(text: str, targets: list[str]) -> None:
    (finding,) = found(text, "no-cache-mount")
    flags = [word for edit in finding.edits for word in edit.text.split() if word.startswith("--mount=")]
    assert [flag.split("target=")[1].partition(",")[0] for flag in flags] == targets


def test_later_steps_get_the_store_too() -> None:
    text = (
        "FROM golang AS m\nRUN go mod download\nRUN chmod a\nFROM m\nRUN make\n"
        "RUN --mount=type=cache,target=/go/pkg/mod go vet\n"
    )
    flags = "--mount=type=cache,target=/go/pkg/mod \\\n    --mount=type=cache,target=/root/.cache/go-build \\\n    "
    assert mended(text, "no-cache-mount") == (
        f"FROM golang AS m\nRUN {flags}go mod download\nRUN chmod a\nFROM m\nRUN {flags}make\n"
        "RUN --mount=type=cache,target=/go/pkg/mod go vet\n"
    )


def test_a_file_that_no_person_wrote_gets_no_rewrite_for_each_of_its_steps() -> None:
    """Each would touch all steps behind it, and the time would grow with the square of their number."""
    for install in ("go build", "apt-get update && apt-get install -y git"):
        findings = found("FROM golang\n" + f"RUN {install}\n" * 201, "no-cache-mount")
        assert len(findings) == 201
        assert not any(finding.edits for finding in findings)


@pytest.mark.parametrize(
    "text",
    [
        'FROM golang\nRUN go mod download\nCMD ["go", "run", "."]',
        'FROM maven AS base\nRUN mvn dependency:resolve\nFROM base AS dev\nCMD mvn spring-boot:run\nFROM scratch',
        "FROM golang AS m\nRUN go mod download\nFROM golang\nCOPY --from=m /go/pkg /go/pkg",
        "FROM golang\nRUN go mod download\nFROM golang\nCOPY --from=0 /go /go",
        "FROM golang\nRUN --network=none go build",
    ],
)
def test_stores_that_are_meant_to_be_in_an_image(text: str) -> None:
    assert found(text, "no-cache-mount") == []


def test_an_update_apart() -> None:
    text = "FROM a\nRUN apt-get update\nRUN apt-get install -y git\n"
    assert mended(text, "apt-update-apart") == "FROM a\nRUN apt-get update && apt-get install -y git\n"
    three = "FROM a\nRUN apt-get update\nRUN X=1 apt-get install -y a\nRUN a && apt-get install -y b\n"
    assert mended(three, "apt-update-apart") == (
        "FROM a\nRUN apt-get update && X=1 apt-get install -y a\nRUN a && apt-get update && apt-get install -y b\n"
    )
    assert found("FROM a\nRUN apt-get update && apt-get install -y git\n", "apt-update-apart") == []
    assert found("FROM a\nRUN apt-get update\n", "apt-update-apart") == []


@pytest.mark.parametrize(
    ("run", "count"),
    [
        ("apt-get update && apt-get install -y git", 1),
        ("apt-get update && apt-get install -y git && rm -rf /var/lib/apt/lists/*", 0),
        ("--mount=type=cache,target=/var/lib/apt apt-get update && apt-get install -y git", 0),
        ("dnf install -y git", 1),
        ("dnf install -y git && dnf clean all", 0),
        ("apk add curl", 1),
        ("apk add --no-cache curl", 0),
        ("apk --no-cache add curl", 0),
    ],
)
def test_lists_that_are_left(run: str, count: int) -> None:
    assert len(found(f"FROM a\nRUN {run}\n", "package-lists-left")) == count
    # What a stage that nothing is built on leaves is in no image.
    assert found(f"FROM a AS build\nRUN {run}\nFROM b\n", "package-lists-left") == []


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("apk add curl", "apk add --no-cache curl"),
        ("apk -q add curl && x", "apk -q add --no-cache curl && x"),
        ("apk update && apk upgrade && apk add a", "apk upgrade --no-cache && apk add --no-cache a"),
        ("apk update && apk add --no-cache a", "apk add --no-cache a"),
        ("dnf -y install a && b", "dnf -y install a && dnf clean all && b"),
        ("yum install a; \\\n yum install \\\n  b", "yum install a; \\\n yum install \\\n  b && yum clean all"),
        ("<<E\ndnf install a\nE", "<<E\ndnf install a\ndnf clean all\nE"),
    ],
)
def test_indexes_and_caches_are_left_no_more(run: str, expected: str) -> None:
    assert mended(f"FROM a\nRUN {run}\n", "package-lists-left") == f"FROM a\nRUN {expected}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a\nRUN npm ci\nCMD node .\n", "RUN npm ci --omit=dev\n"),
        ("FROM a\nRUN pnpm install --frozen-lockfile\nCMD node .\n", "RUN pnpm install --prod --frozen-lockfile\n"),
        ("FROM a\nRUN uv sync --frozen\nCMD app\n", "RUN uv sync --no-dev --frozen\n"),
        ("FROM a\nRUN poetry install --no-root\nCMD app\n", "RUN poetry install --only main --no-root\n"),
    ],
)
def test_development_dependencies(text: str, expected: str) -> None:
    assert expected in mended(text, "development-dependencies")


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nRUN npm ci --omit=dev\n",
        "FROM a\nENV NODE_ENV=production\nRUN npm ci\n",
        "FROM a AS build\nRUN npm ci\nFROM b\nCOPY --from=build /x /x\n",
        "FROM a AS dev\nRUN npm ci\n",
        'FROM a\nRUN npm ci\nCMD ["npm", "run", "dev"]\n',
        "FROM a\nRUN npm ci && npm run build && npm prune --omit=dev\n",
        "FROM a\nRUN npm install express\n",
        "FROM a\nRUN npm install -g pnpm\n",
    ],
)
def test_no_development_dependencies(text: str) -> None:
    assert found(text, "development-dependencies") == []


def test_a_stage_that_is_built_on_keeps_them() -> None:
    text = "FROM a AS base\nRUN npm ci\nFROM base AS build\nRUN npm run build\nFROM base\nCOPY --from=build /x /x\n"
    (finding,) = found(text, "development-dependencies")
    assert finding.edits == ()


def test_what_needs_them_gets_no_rewrite() -> None:
    (finding,) = found("FROM a\nRUN npm ci\nRUN npm run build\nCMD node .\n", "development-dependencies")
    assert finding.edits == ()
    assert "build in a stage of its own" in finding.message


def test_an_install_below_the_sources_moves_up(tmp_path: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        (tmp_path / name).write_text("{}")
    text = "FROM a\nWORKDIR /app\nCOPY . .\nRUN npm ci\nRUN npm run build\n"
    assert mended(text, "install-below-sources", tmp_path) == (
        "FROM a\nWORKDIR /app\nCOPY package.json package-lock.json ./\nRUN npm ci\nCOPY . .\nRUN npm run build\n"
    )


def test_a_project_is_installed_twice() -> None:
    text = "FROM a\nCOPY . .\nRUN uv sync --frozen\n"
    assert mended(text, "install-below-sources") == (
        "FROM a\nCOPY pyproject.toml uv.lock ./\nRUN uv sync --no-install-project --frozen\n"
        "COPY . .\nRUN uv sync --frozen\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nCOPY package.json .\nRUN npm ci\nCOPY . .\nRUN npm ci\n",
        "FROM a\nCOPY src src\nRUN npm ci\n",
        "FROM a\nCOPY . .\nRUN pip install .\n",
        "FROM a\nCOPY . .\nRUN pip install -r requirements.txt -e .\n",
        "FROM a\nCOPY --from=b . .\nRUN npm ci\n",
        "FROM a\nCOPY . .\nRUN npm run build && npm ci --omit=dev\n",
        "FROM a\nCOPY . .\nRUN pnpm install\nRUN pnpm -r build\n",
        "FROM a\nCOPY . .\nRUN yarn install\nRUN yarn workspace web build\n",
    ],
)
def test_installs_in_their_place(text: str) -> None:
    assert found(text, "install-below-sources") == []


@pytest.mark.parametrize(
    ("name", "content", "install"),
    [
        ("package.json", '{"scripts": {"postinstall": "node build.js"}}', "npm ci"),
        ("package.json", '{"workspaces": ["a"]}', "npm ci"),
        ("requirements.txt", "flask\n-e .\n", "pip install -r requirements.txt"),
        ("requirements.txt", "./vendored\n", "pip install -r requirements.txt"),
        ("requirements.txt", "-r base.txt\nflask\n", "pip install -r requirements.txt"),
        ("requirements.txt", "x @ file:///app/x\n", "pip install -r requirements.txt"),
        ("pyproject.toml", "[tool.uv.workspace]\n", "uv sync"),
        ("pyproject.toml", '[tool.poetry.dependencies]\nx = {path = "../x"}\n', "poetry install"),
        ("Gemfile", 'ruby file: ".ruby-version"\n', "bundle install"),
        ("go.mod", "module x\nreplace example.com/y => ../y\n", "go mod download"),
        ("Gemfile", "gemspec\n", "bundle install"),
    ],
)
def test_installs_that_read_more(tmp_path: Path, name: str, content: str, install: str) -> None:
    (tmp_path / name).write_text(content)
    assert found(f"FROM a\nCOPY . .\nRUN {install}\n", "install-below-sources", tmp_path) == []


def test_an_install_takes_its_settings_along(tmp_path: Path) -> None:
    for name in ("package.json", ".npmrc", "yarn.lock"):
        (tmp_path / name).write_text("{}")
    text = "FROM a\nCOPY . .\nRUN yarn\n"
    assert "COPY package.json yarn.lock .npmrc ./\n" in mended(text, "install-below-sources", tmp_path)
    # What the ignore file hides is not there to be copied.
    (tmp_path / ".dockerignore").write_text("yarn.lock\n.npm*\n")
    assert "COPY package.json ./\n" in mended(text, "install-below-sources", tmp_path)
    (tmp_path / "patches").mkdir()
    assert found(text, "install-below-sources", tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "is_secret"),
    [
        ("tls.key", "-----BEGIN PRIVATE KEY-----\n", True),
        ("ca.pem", "-----BEGIN CERTIFICATE-----\n", False),
        ("account.json", '{"private_key": "-----BEGIN PRIVATE KEY-----"}', True),
        ("package.json", "{}", False),
        (".env", "# x\nexport API_TOKEN=abcdef\n", True),
        (".env", "API_TOKEN=\nDB_PASSWORD=changeme\nTOKEN_FILE=/x\nPORT=1\nA_TOKEN=$B\n", False),
        (".yarnrc.yml", "npmAuthToken: abc\n", True),
        (".yarnrc.yml", "nodeLinker: node-modules\n", False),
    ],
)
def test_files_whose_content_tells(tmp_path: Path, name: str, content: str, is_secret: bool) -> None:
    (tmp_path / name).write_text(content)
    assert bool(found(f"FROM a\nCOPY {name} /x/\n", "baked-secret", tmp_path)) is is_secret
    assert found(f"FROM a\nCOPY {name} /x/\n", "baked-secret") == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("FROM a AS b\nFROM debian\nCOPY --from=b /x /x\nRUN apt-get install -y gcc make\n", 1),
        ("FROM a AS b\nFROM debian\nCOPY --from=b /x /x\nRUN apt-get install -y gcc && apt-get purge -y gcc\n", 0),
        ("FROM debian\nRUN apt-get install -y gcc make\n", 0),
        ("FROM a AS b\nFROM scratch\nCOPY --from=b /bin/sh /bin/sh\n", 1),
        ("FROM a AS b\nFROM scratch\nCOPY --from=b /app/bin/app /app\n", 0),
    ],
)
def test_build_tools(text: str, count: int) -> None:
    assert len(found(text, "build-tools-in-runtime")) == count


@pytest.mark.parametrize(
    ("end", "goes"),
    [
        ('ENTRYPOINT ["/app"]\n', True),
        ("ENTRYPOINT /app\n", False),
        ('ENTRYPOINT ["sh", "-c", "/app"]\n', False),
        ("RUN x\n", False),
        ("HEALTHCHECK CMD x\n", False),
    ],
)
def test_a_shell_that_nothing_calls_goes(end: str, goes: bool) -> None:
    text = f"FROM a AS b\nFROM scratch\nCOPY --from=b /app /app\nCOPY --from=b /bin/sh /bin/sh\n{end}"
    assert ("/bin/sh /bin/sh" not in mended(text, "build-tools-in-runtime")) is goes


@pytest.mark.parametrize(
    "text",
    [
        'FROM node:22\nVOLUME /data\nCMD ["node", "."]\n',
        'FROM node:22\nCMD ["node", "."]\nRUN x\n',
        'FROM node:22\nUSER root\nCMD ["node", "."]\n',
    ],
)
def test_roots_images_that_take_thought(text: str) -> None:
    (finding,) = found(text, "runs-as-root")
    assert finding.edits == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('FROM node:22\nCMD ["node", "."]\n', "USER node\nCMD"),
        ('FROM node:22\nEXPOSE 80\nCMD ["node", "."]\nEXPOSE 81\n', "USER node\nCMD"),
        ('FROM gcr.io/distroless/static-debian12\nENTRYPOINT ["/app"]\n', "USER 65532:65532\nENTRYPOINT"),
        ('FROM scratch\nCOPY app /\nENTRYPOINT ["/app"]\nCMD ["run"]\n', "USER 65534:65534\nENTRYPOINT"),
        ("FROM python:3.13-slim\nCMD python app.py\n", "USER 65534:65534\nCMD"),
    ],
)
def test_roots_images(text: str, expected: str) -> None:
    assert expected in mended(text, "runs-as-root")


@pytest.mark.parametrize(
    "text",
    [
        "FROM debian\nUSER app\nCMD x\n",
        "FROM debian AS base\nUSER app\nFROM base\nCMD x\n",
        "FROM nginx\nCMD nginx\n",
        "FROM debian\nRUN x\n",
        'FROM gcr.io/distroless/static:nonroot\nENTRYPOINT ["/app"]\n',
        'FROM debian\nENTRYPOINT ["/docker-entrypoint.sh"]\n',
        "FROM registry.example.com/team/base:1\nCMD x\n",
    ],
)
def test_images_that_may_have_a_user(text: str) -> None:
    assert found(text, "runs-as-root") == []


def test_bases_by_tag() -> None:
    text = (
        "ARG V=1\nFROM a:1 AS x\nFROM x\nFROM scratch\nFROM b:$V\nFROM c@sha256:"
        + "0" * 64
        + "\nFROM r.example.com:5000/d\n"
    )
    assert [item.location.start for item in found(text, "unpinned-base")] == [2, 7]
    digest = "sha256:" + "1" * 64
    done = fix(b"FROM a:1 AS x\nFROM --platform=linux/amd64 b\n", "Dockerfile", None, lambda image: digest)
    assert done.text == f"FROM a:1@{digest} AS x\nFROM --platform=linux/amd64 b:latest@{digest}\n"
