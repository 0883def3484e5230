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
    text = "FROM a\nARG NPM_TOKEN\nRUN a $NPM_TOKEN\nRUN b\n"
    rewritten = "FROM a\nRUN --mount=type=secret,id=NPM_TOKEN,env=NPM_TOKEN \\\n    a $NPM_TOKEN\nRUN b\n"
    assert mended(text, "baked-secret") == rewritten


@pytest.mark.parametrize(
    ("install", "target"),
    [
        ("apt-get update && apt-get install -y git", "/var/cache/apt,sharing=locked"),
        ("pip install flask", "/root/.cache/pip"),
        ("python -m pip install flask", None),
        ("uv sync --frozen", "/root/.cache/uv"),
        ("uv pip install --system x", "/root/.cache/uv"),
        ("npm ci", "/root/.npm"),
        ("npm install -g typescript", "/root/.npm"),
        ("pnpm install --frozen-lockfile", "/root/.local/share/pnpm/store"),
        ("go build ./...", "/root/go/pkg/mod"),
        ("cargo build --release", "/root/.cargo/registry"),
        ("./mvnw -B package", "/root/.m2"),
        ("gradle build", "/root/.gradle"),
        ("npm run build", None),
        ("npm --version", None),
        ("yarn build", None),
        ("echo npm ci", None),
        ("# npm ci\ntrue", None),
    ],
)
def test_installs_without_a_cache_mount(install: str, target: str | None) -> None:
    text = f"FROM a\nRUN {install}\n" if "\n" not in install else f"FROM a\nRUN <<EOF\n{install}\nEOF\n"
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


def test_what_would_empty_the_cache_goes() -> None:
    text = "FROM a\nRUN apt-get update && apt-get install -y git \\\n    && rm -rf /var/lib/apt/lists/*\n"
    rewritten = mended(text, "no-cache-mount")
    assert "rm -rf" not in rewritten
    assert rewritten.endswith("    apt-get update && apt-get install -y git\n")
    pip = "FROM a\nRUN pip install --no-cache-dir x\n"
    assert mended(pip, "no-cache-mount").endswith("    pip install x\n")


def test_an_update_apart() -> None:
    text = "FROM a\nRUN apt-get update\nRUN apt-get install -y git\n"
    assert mended(text, "apt-update-apart") == "FROM a\nRUN apt-get update && apt-get install -y git\n"
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


def test_apk_leaves_its_index_no_more() -> None:
    assert mended("FROM a\nRUN apk add curl\n", "package-lists-left") == "FROM a\nRUN apk add --no-cache curl\n"


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
        ("go.mod", "module x\nreplace example.com/y => ../y\n", "go mod download"),
        ("Gemfile", "gemspec\n", "bundle install"),
    ],
)
def test_installs_that_read_more(tmp_path: Path, name: str, content: str, install: str) -> None:
    (tmp_path / name).write_text(content)
    assert found(f"FROM a\nCOPY . .\nRUN {install}\n", "install-below-sources", tmp_path) == []


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
    ("text", "expected"),
    [
        ('FROM node:22\nCMD ["node", "."]\n', "USER node\nCMD"),
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
