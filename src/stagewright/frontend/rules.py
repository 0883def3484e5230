"""BuildKit's build checks: their names, explanations and links, and which of them a Dockerfile wants to hear of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from stagewright.dockerfile.directives import CheckOptions, parse_check, parse_check_comment
from stagewright.errors import DockerfileError, SourceRange
from stagewright.patterns import pattern
from stagewright.records import dataclass

_LINKS = "https://docs.docker.com/go/dockerfile/rule/"
_WORD_START = pattern(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_BUILD_ARG = "BUILDKIT_DOCKERFILE_CHECK"
_CHECK_COMMENT = pattern(r"check[\t\n\f\r ]*=(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    """A build check. An experimental one runs only where it is asked for; not all are documented on a page."""

    name: str
    description: str
    experimental: bool = False
    documented: bool = True

    @property
    def url(self) -> str:
        if not self.documented:
            return ""
        return f"{_LINKS}{_WORD_START.sub('-', self.name).lower()}/"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a build check found, and where."""

    rule: Rule
    message: str
    location: SourceRange

    @property
    def short(self) -> str:
        """The one line that a build shows."""
        return f"{self.rule.name}: {self.message} (line {self.location.start})"


STAGE_NAME_CASING = Rule("StageNameCasing", "Stage names should be lowercase")
FROM_AS_CASING = Rule("FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword")
NO_EMPTY_CONTINUATION = Rule("NoEmptyContinuation", "Empty continuation lines will become errors in a future release")
CONSISTENT_INSTRUCTION_CASING = Rule(
    "ConsistentInstructionCasing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
)
DUPLICATE_STAGE_NAME = Rule("DuplicateStageName", "Stage names should be unique")
RESERVED_STAGE_NAME = Rule("ReservedStageName", "Reserved words should not be used as stage names")
JSON_ARGS_RECOMMENDED = Rule(
    "JSONArgsRecommended",
    "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
)
MAINTAINER_DEPRECATED = Rule(
    "MaintainerDeprecated",
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
)
UNDEFINED_ARG_IN_FROM = Rule("UndefinedArgInFrom", "FROM command must use declared ARGs")
WORKDIR_RELATIVE_PATH = Rule(
    "WorkdirRelativePath",
    "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base"
    " image changes",
)
UNDEFINED_VAR = Rule("UndefinedVar", "Variables should be defined before their use")
MULTIPLE_INSTRUCTIONS_DISALLOWED = Rule(
    "MultipleInstructionsDisallowed",
    "Multiple instructions of the same type should not be used in the same stage",
)
LEGACY_KEY_VALUE_FORMAT = Rule(
    "LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used"
)
INVALID_BASE_IMAGE_PLATFORM = Rule(
    "InvalidBaseImagePlatform", "Base image platform does not match expected target platform", documented=False
)
REDUNDANT_TARGET_PLATFORM = Rule(
    "RedundantTargetPlatform",
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
)
SECRETS_USED_IN_ARG_OR_ENV = Rule(
    "SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands"
)
INVALID_DEFAULT_ARG_IN_FROM = Rule(
    "InvalidDefaultArgInFrom", "Default value for global ARG results in an empty or invalid base image name"
)
FROM_PLATFORM_FLAG_CONST_DISALLOWED = Rule(
    "FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value"
)
COPY_IGNORED_FILE = Rule("CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore")
INVALID_DEFINITION_DESCRIPTION = Rule(
    "InvalidDefinitionDescription",
    "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not"
    " intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    experimental=True,
)
EXPOSE_PROTO_CASING = Rule("ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase")
EXPOSE_INVALID_FORMAT = Rule(
    "ExposeInvalidFormat",
    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future"
    " release",
)


class Findings:
    """Passes on what the checks find, each thing once, unless the Dockerfile does not want to hear of it."""

    def __init__(self, options: CheckOptions, report: Callable[[Finding], None]) -> None:
        self._options = options
        self._report = report
        self._seen: set[tuple[str, str, int]] = set()

    def add(self, rule: Rule, message: str, location: SourceRange, comments: Iterable[str] = ()) -> None:
        """Report a finding. `comments` stand before the instruction: a `check=skip=` there is for it alone."""
        key = (rule.name, message, location.start)
        if key in self._seen or not _is_wanted(rule, (self._options, _in_comments(comments))):
            return
        self._seen.add(key)
        self._report(Finding(rule, message, location))

    def finish(self) -> None:
        """Raise DockerfileError where findings are to fail the build and there were some."""
        if self._options.error and self._seen:
            rules = sorted({name for name, _, _ in self._seen})
            raise DockerfileError(f"lint violation found for rules: {', '.join(rules)}")


def check_options(directive: CheckOptions, build_args: Mapping[str, str]) -> CheckOptions:
    """Which checks run: what the build asks for, be it nothing, else what the file does. Raises DockerfileError."""
    text = build_args.get(_BUILD_ARG)
    if text is None:
        return directive
    try:
        return parse_check(text)
    except DockerfileError as error:
        error.put_before(f"failed to parse build-arg:{_BUILD_ARG}")
        raise


def _is_wanted(rule: Rule, options: tuple[CheckOptions, ...]) -> bool:
    if rule.experimental:
        return any(option.experimental_all or rule.name in option.experimental for option in options)
    return not any(option.skip_all or rule.name in option.skip for option in options)


def _in_comments(comments: Iterable[str]) -> CheckOptions:
    """What the first `check=` of the comments says; one that means nothing is a comment like any other."""
    text = next((match[1] for comment in comments if (match := _CHECK_COMMENT.fullmatch(comment))), "")
    try:
        return parse_check_comment(text.strip())
    except DockerfileError:
        return CheckOptions()
