"""Why the steps of a build were not found in the cache: each is compared with what it was in an earlier build.

The causes of a step are what differs in it and in its inputs. A difference in an input has causes of its own, and so on
up to the roots, which are what a person did: a file, an argument, an instruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stagewright.dockerfile.ignore import Matcher, patterns_from
from stagewright.history import filelist
from stagewright.history.archive import Archive, Build
from stagewright.history.causes import Cause, Sides, cause_of, not_imported, own_causes, text_changed, variable_cause
from stagewright.history.filelist import Changes, FileChange
from stagewright.history.past import Past, Present, Reason
from stagewright.history.steps import Step, copied_from, selected_from
from stagewright.patterns import pattern
from stagewright.records import replace

_LABEL = 60


class Explainer:
    """Explains steps one after the other, inputs before those that use them.

    `builds` are earlier builds of the same subject, the one to compare with first.
    """

    def __init__(self, archive: Archive, builds: Sequence[Build], present: Present) -> None:
        self._archive = archive
        self._builds = list(builds)
        self._present = present
        self._pasts: dict[int, Past | None] = {}
        self._known: dict[tuple[int, int], list[Cause]] = {}
        # What was said of the steps of each root.
        self._told: dict[int, list[tuple[str, str, Mapping[str, Any]]]] = {}
        self.reasons: dict[int, Reason] = {}

    def explain(self, index: int) -> Reason:
        """Why the step of that index runs. Its key, and those of its inputs, have to be known."""
        reason = self._reason(index, self._past_of(index))
        told = self._told.setdefault(reason.root, [])
        if reason.root != index:
            reason = replace(reason, also=tuple(cause for cause in reason.also if _told(cause) not in told))
        told += [(reason.kind, reason.sentence, reason.details), *map(_told, reason.also)]
        self.reasons[index] = reason
        return reason

    def foresee(self, index: int, waits_for: int) -> Reason:
        """Of a step whose key shows only when the step `waits_for` has run: why it runs, or what that depends on."""
        past = self._past_of(index)
        step, source = self._present.steps[index], self._present.steps[waits_for]
        if past is None or self._present.no_cache[index] or source.is_part or self._certain(past, index):
            return self.explain(index)
        at = step.inputs.index(waits_for)
        if source.canonical is None or at == step.base:
            sentence = f"it runs if {self._label(waits_for)} does"
        else:
            sentence = f"it runs if what it takes from {_input_name(step, at, source)} comes out otherwise"
        known = self.reasons.get(waits_for)
        root = waits_for if known is None else known.root
        self.reasons[index] = Reason("depends", sentence, "", root, {}, (), past.build.number)
        return self.reasons[index]

    def _certain(self, past: Past, index: int) -> bool:
        """Whether a step has another key, however the steps come out that it waits for."""
        new, old = self._present.steps[index], past.steps[past.matched[index]]
        sides = Sides(old, new, past.recipe, self._present.recipe, past.inputs, self._present.inputs)
        if own_causes(sides):
            return True
        return any(self._base_causes(past, sides))

    def inherit(self, index: int) -> dict[str, str]:
        """The content digests of a step that is what it was: they were not needed to find it."""
        for past in self._all_pasts():
            old = past.steps[past.matched[index]] if index in past.matched else None
            if old is not None and old.canonical == self._present.steps[index].canonical:
                return old.contents
        return {}

    def _past_of(self, index: int) -> Past | None:
        """The build in which a step was before; one that is less like this build has to have the same text for it."""
        step = self._present.steps[index]
        for number, past in enumerate(self._all_pasts()):
            old = past.matched.get(index)
            if old is not None and (
                not number or past.recipe.written(past.steps[old]) == self._present.recipe.written(step)
            ):
                return past
        return None

    def _all_pasts(self) -> Iterator[Past]:
        for build in self._builds:
            if build.number not in self._pasts:
                graph = self._archive.graph(build.graph)
                self._pasts[build.number] = Past(self._archive, build, graph, self._present) if graph else None
            if (past := self._pasts[build.number]) is not None:
                yield past

    # --- one step -------------------------------------------------------------------------------------------------

    def _reason(self, index: int, past: Past | None) -> Reason:
        step = self._present.steps[index]
        number = None if past is None else past.build.number
        if self._present.no_cache[index]:
            return self._no_cache(index, number)
        if past is None:
            return self._never_ran(index)
        causes = self._causes(past, index)
        if not causes:
            causes = [self._same_key(past, step, past.steps[past.matched[index]], past.matched[index])]
        first = causes[0]
        also = tuple(causes[1:])
        if first.via is None:
            return Reason(first.kind, first.sentence, first.short, index, first.details, also, number)
        return self._followed(past, index, first, also)

    def _followed(self, past: Past, index: int, first: Cause, also: tuple[Cause, ...]) -> Reason:
        """A cause that lies further up: where it arose, and what it is there."""
        cause, at, number = first, index, past.build.number
        while cause.via is not None and cause.via not in self.reasons:
            at = cause.via
            causes = self._causes(past, at)
            if not causes:
                # All that is known of it is that it came out otherwise.
                break
            cause = causes[0]
        is_parent = first.kind == "parent"
        assert first.via is not None
        if cause.via is not None and cause.via in self.reasons:
            verb = "ran" if first.via in self.reasons else "differs"
            short = f"{self._place(first.via)} {verb}" if is_parent else first.short
            root = self.reasons[cause.via].root
            return Reason(first.kind, first.sentence, short, root, first.details, also, number)
        if cause.via is not None:
            short = f"{self._place(first.via)} differs" if is_parent else first.short
            return Reason(first.kind, first.sentence, short, index, first.details, also, number)
        # What it stands on was found in the cache, but is not what it was.
        place = f"{self._label(at)}: {cause.sentence}"
        sentence = place if is_parent else f"{first.sentence}, since {place}"
        return Reason(cause.kind, sentence, cause.short, index, cause.details, also, number)

    def _no_cache(self, index: int, number: int | None) -> Reason:
        step = self._present.steps[index]
        stages = self._present.inputs.get("no_cache_filter") or ()
        if self._present.inputs.get("no_cache"):
            return Reason("no-cache", "--no-cache was given", "--no-cache", index, {}, (), number)
        sentence = f"--no-cache-filter names its stage {step.stage}"
        return Reason("no-cache-filter", sentence, "--no-cache-filter", index, {"filter": list(stages)}, (), number)

    def _never_ran(self, index: int) -> Reason:
        step = self._present.steps[index]
        if cause := not_imported(self._present.sources, self._present.unread):
            return Reason(cause.kind, cause.sentence, cause.short, index)
        if not self._builds:
            return Reason("first", "no build of this context and Dockerfile was recorded before", "", index)
        if step.is_image or step.kind == "source":
            sentence = "no recorded build of this context and Dockerfile has used it"
            return Reason("new-source", sentence, "not here yet", index)
        pasts = list(self._all_pasts())
        if pasts and not any(step.stage in past.stages for past in pasts):
            sentence = f"the stage {step.stage or 'of this step'} never ran before: no recorded build has it"
            return Reason("new-stage", sentence, "new stage", index)
        if not step.is_instruction:
            return Reason("new", "it never ran before", "new", index)
        return Reason("new", f"this instruction is new{self._place_in_stage(index)}", "new instruction", index)

    def _place_in_stage(self, index: int) -> str:
        base = self._base(index)
        return f": it comes after {self._label(base)}" if base is not None else ""

    # --- the same key, and no result ------------------------------------------------------------------------------

    def _same_key(self, past: Past, step: Step, old: Step, old_index: int) -> Cause:
        """The step is what it was: then its result never was, or is no more."""
        build, ran = past.build, past.run.steps.get(old_index)
        if ran is not None and ran["state"] != "ran":
            if ran["state"] == "failed":
                return cause_of("failed-before", f"it failed in build {build.number}", "it failed before")
            return cause_of("not-reached", f"build {build.number} ended before it was done", "never finished before")
        if ran is not None and not ran.get("exact", True):
            sentence = f"the build context changed while build {build.number} copied it, so that nothing was kept"
            return cause_of("inexact", sentence, "the context changed during the last build")
        pruned = self._archive.pruned(old.canonical or "")
        if pruned > build.created:
            at = _date(pruned)
            return cause_of("pruned", f"its result was pruned at {at}", f"pruned at {at}", at=pruned)
        if step.canonical != old.canonical and build.version != self._present.version:
            sentence = f"this is version {self._present.version}, which does not use results of {build.version}"
            return cause_of("version", sentence, f"built by version {build.version}")
        if cause := not_imported(self._present.sources, self._present.unread):
            return replace(cause, sentence=f"its result is not in the store: {cause.sentence}")
        sentence = f"its result of build {build.number} was lost: the store does not have it any more"
        return cause_of("lost", sentence, "its result was lost")

    # --- causes ---------------------------------------------------------------------------------------------------

    def _causes(self, past: Past, index: int) -> list[Cause]:
        """How a step differs from what it was, what lies furthest up first; its own key is not looked at."""
        key = (past.build.number, index)
        if key not in self._known:
            # A graph has no cycles, but what is asked for meanwhile must end.
            self._known[key] = []
            old = past.matched.get(index)
            self._known[key] = [] if old is None else self._compare(past, index, past.steps[old])
        return self._known[key]

    def _compare(self, past: Past, index: int, old: Step) -> list[Cause]:
        new = self._present.steps[index]
        sides = Sides(old, new, past.recipe, self._present.recipe, past.inputs, self._present.inputs)
        if new.kind == "source":
            return list(self._source_causes(sides))
        inherited = list(self._base_causes(past, sides))
        content = list(self._content_causes(past, sides))
        own = own_causes(sides, other_base=bool(inherited))
        if own:
            # So it reads something else, which is no cause of its own.
            content = [cause for cause in content if cause.kind not in ("text", "source") and _tells_files(cause)]
        arguments = [cause for cause in own if cause.kind == "build-arg"]
        rest = [cause for cause in own if cause.kind != "build-arg"]
        return [*inherited, *arguments, *rest, *content]

    def _source_causes(self, sides: Sides) -> Iterator[Cause]:
        old, new = sides.old, sides.new
        if new.is_image and old.is_image:
            if old.op["identifier"] != new.op["identifier"]:
                yield from self._image_causes(sides)
        elif new.op != old.op:
            yield cause_of(
                "source", f"it reads {new.op['identifier']} instead of {old.op['identifier']}", "other source"
            )
        elif new.meaning != old.meaning and new.meaning and old.meaning:
            yield _meaning_cause(new, old.meaning, new.meaning)

    def _image_causes(self, sides: Sides) -> Iterator[Cause]:
        before, after = _image(sides.old), _image(sides.new)
        if sides.old.platform != sides.new.platform:
            sentence = f"the platform went from {sides.old.platform} to {sides.new.platform}"
            yield cause_of("platform", sentence, old=sides.old.platform, new=sides.new.platform)
        elif before[0] == after[0]:
            sentence = f"the base image {_familiar(after[0])} moved from {before[1]} to {after[1]}"
            short = f"base image {_familiar(after[0])} moved"
            yield cause_of("base-moved", sentence, short, image=after[0], old=before[1], new=after[1])
        else:
            for name in self._present.recipe.variables_in(sides.new):
                if (cause := variable_cause(sides, name)) is not None:
                    yield cause
                    return
            sentence = f"the base image went from {_familiar(before[0])} to {_familiar(after[0])}"
            yield cause_of("base-changed", sentence, old="@".join(before), new="@".join(after))

    def _base_causes(self, past: Past, sides: Sides) -> Iterator[Cause]:
        """How what the step's files start from differs."""
        old_base = None if sides.old.base is None else sides.old.inputs[sides.old.base]
        new_base = None if sides.new.base is None else sides.new.inputs[sides.new.base]
        if new_base is None or old_base is None:
            if new_base is not old_base:
                yield cause_of("base-changed", "it starts from other files than before", "other base")
            return
        old, new = past.steps[old_base], self._present.steps[new_base]
        if new.canonical is None or new.canonical == old.canonical:
            return
        yield self._other_input(past, old_base, new_base)

    def _other_input(self, past: Past, old_index: int, new_index: int) -> Cause:
        """What became of an input that has another key."""
        old, new = past.steps[old_index], self._present.steps[new_index]
        if past.matched.get(new_index) == old_index or (new.is_image and old.is_image):
            if new.is_image and old.is_image and new_index not in self.reasons:
                sides = Sides(old, new, past.recipe, self._present.recipe, past.inputs, self._present.inputs)
                cause = next(self._image_causes(sides), None)
                if cause is not None:
                    return cause
            if new.is_image:
                sentence = f"its base image {_familiar(_image(new)[0])} is not what it was"
            elif new_index in self.reasons:
                sentence = f"its parent step {self._label(new_index)} ran again"
            else:
                sentence = f"its parent step {self._label(new_index)} is not what it was in build {past.build.number}"
            return Cause("parent", sentence, "", {}, new_index)
        label = self._label(new_index)
        if new.is_instruction and new_index not in past.matched:
            sentence = f"the instruction before it is new: {label}"
            return Cause("inserted", sentence, f"{self._place(new_index)} is new", {}, new_index)
        if new_index in self.reasons:
            return Cause("parent", f"its parent step {label} ran again", "", {}, new_index)
        was = _cut(old.text)
        if old.is_instruction and old_index not in past.back:
            return cause_of(
                "removed", f"the instruction before it is gone: {was}", f"{was} is gone", instruction=old.text
            )
        if new_index in past.matched and old_index in past.back:
            return cause_of("reordered", f"it comes after {label} now, and came after {was} before", "reordered")
        return cause_of("base-changed", f"it starts from {label} now, and from {was} before", "other base")

    # --- files ----------------------------------------------------------------------------------------------------

    def _content_causes(self, past: Past, sides: Sides) -> Iterator[Cause]:
        """How the files differ that the step reads of contexts, stages and images."""
        indexes = [index for index in range(len(sides.new.inputs)) if index != sides.new.base]
        before = [index for index in range(len(sides.old.inputs)) if index != sides.old.base]
        for new_at, old_at in zip(indexes, before, strict=False):
            digests = sides.old.contents.get(str(old_at)), sides.new.contents.get(str(new_at))
            new_input, old_input = sides.new.inputs[new_at], sides.old.inputs[old_at]
            new, old = self._present.steps[new_input], past.steps[old_input]
            if new.is_part and old.is_part:
                # The folder stands for it, of which is known what it holds also before it is read.
                digests = old.contents.get("0"), new.contents.get("0")
            if None not in digests:
                if digests[0] == digests[1]:
                    continue
            elif new.canonical is None or new.canonical == old.canonical:
                continue
            if sides.new.kind == "merge":
                yield self._other_input(past, old_input, new_input)
            else:
                changes = self._changes(*digests)
                if changes is not None and selected_from(sides.old, old_at) != selected_from(sides.new, new_at):
                    # What only one of them reads is neither added nor removed.
                    changes = changes.only(lambda change: change.kind not in ("added", "removed"))
                yield from self._files_causes(past, sides, (old_at, new_at), (old_input, new_input), changes)

    def _files_causes(
        self, past: Past, sides: Sides, at: tuple[int, int], inputs: tuple[int, int], changes: Changes | None
    ) -> Iterator[Cause]:
        """Why the files of an input are others; `at` are its places in the two steps, `inputs` what it is."""
        new = self._present.steps[inputs[1]]
        if (cause := _named_context_cause(sides)) is not None:
            yield cause
        elif new.is_part or _is_context(new):
            yield from self._context_causes(past, self._present.steps[new.inputs[0]] if new.is_part else new, changes)
        elif _is_archive(new) and changes is not None and changes.count:
            where = " in the archive on standard input"
            sentence, short = filelist.named(changes) + where, filelist.short(changes) + where
            yield Cause("files", sentence, short, filelist.details(changes))
        else:
            yield self._input_cause(past, sides, at, inputs, changes)

    def _input_cause(
        self, past: Past, sides: Sides, at: tuple[int, int], inputs: tuple[int, int], changes: Changes | None
    ) -> Cause:
        """Why those of a stage, an image, an inline document or a remote source are others."""
        old, new = past.steps[inputs[0]], self._present.steps[inputs[1]]
        pair = Sides(old, new, past.recipe, self._present.recipe, past.inputs, self._present.inputs)
        is_remote = new.kind == "source" and not new.is_image
        if is_remote and (cause := next(self._source_causes(pair), None)) is not None:
            return cause
        if self._is_inline(inputs[1]):
            # A text in the Dockerfile itself, in which variables may stand.
            written = sides.old_recipe.written(sides.old), sides.new_recipe.written(sides.new)
            if written[0] != written[1]:
                return text_changed(*written)
            for variable in self._present.recipe.variables_in(sides.new):
                if (found := variable_cause(sides, variable)) is not None:
                    return found
        name = _input_name(sides.new, at[1], new)
        what = filelist.named(changes, "/") if changes is not None and changes.count else "its files are others"
        is_other_image = new.is_image and old.is_image and new.op != old.op and inputs[1] not in self.reasons
        if is_other_image and (cause := next(self._image_causes(pair), None)) is not None:
            return cause
        sentence = f"what it takes from {name} is not what it was: {what}"
        details = filelist.details(changes)
        if new.canonical != old.canonical:
            return Cause("copied", sentence, f"{name}: {filelist.short(changes, '/')}", details, inputs[1])
        return Cause("copied", sentence, f"files of {name} changed", details)

    def _context_causes(self, past: Past, context: Step, changes: Changes | None) -> Iterator[Cause]:
        named = str(context.op["identifier"]).removeprefix("local://")
        where = "" if named == "context" else f" in the named context {named.removeprefix('_')}"
        if changes is None:
            yield cause_of("files", f"files of the build context{where} changed", "files of the context changed")
            return
        if not where and past.ignore != list(self._present.ignore):
            matcher = Matcher(patterns_from(past.ignore))

            def is_hidden(change: FileChange) -> bool:
                return change.kind == "removed" and self._present.exists(change.path)

            def is_shown(change: FileChange) -> bool:
                return change.kind == "added" and matcher.matches(change.path)

            for counts, verdict in ((is_hidden, "hides {} now"), (is_shown, "does not hide {} any more")):
                if (ignored := changes.only(counts)).count:
                    more = f" and {ignored.count - 1} more" if ignored.count > 1 else ""
                    sentence = f"the ignore file {verdict.format(ignored.first[0].path + more)}"
                    yield Cause("ignored", sentence, sentence, filelist.details(ignored))
            changes = changes.only(lambda change: not is_hidden(change) and not is_shown(change))
            if not changes.count:
                return
        sentence = filelist.named(changes) or "it reads the same files in another way"
        yield Cause("files", sentence + where, filelist.short(changes) + where, filelist.details(changes))

    def _changes(self, old: str | None, new: str | None) -> Changes | None:
        if old is None or new is None:
            return None
        before = filelist.unpack(self._archive.files(old))
        after = filelist.unpack(self._present.files(new))
        return None if before is None or after is None else Changes(before, after)

    def _is_inline(self, index: int) -> bool:
        step = self._present.steps[index]
        return step.kind == "file" and step.lines is None and not step.inputs

    # --- names ----------------------------------------------------------------------------------------------------

    def _base(self, index: int) -> int | None:
        step = self._present.steps[index]
        return None if step.base is None else step.inputs[step.base]

    def _label(self, index: int) -> str:
        step = self._present.steps[index]
        return _cut(step.name.partition("@sha256:")[0] if step.is_image else step.name)

    def _place(self, index: int) -> str:
        name = self._present.steps[index].name
        return name.partition("]")[0] + "]" if name.startswith("[") else _cut(name)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LABEL else f"{line[:_LABEL]}..."


def _is_context(step: Step) -> bool:
    return step.kind == "source" and str(step.op["identifier"]).startswith("local://")


def _tells_files(cause: Cause) -> bool:
    return cause.kind not in ("files", "copied") or bool(cause.details.get("count"))


def _is_archive(step: Step) -> bool:
    """Whether it is the build context that was given as an archive."""
    return step.kind == "source" and str(step.op["identifier"]).startswith("archive://")


def _told(cause: Cause) -> tuple[str, str, Mapping[str, Any]]:
    return cause.kind, cause.sentence, cause.details


def _image(step: Step) -> tuple[str, str]:
    """The name of an image as the step tells it, and the digest of its manifest."""
    digest = str(step.op["identifier"]).rpartition("@")[2]
    name = step.text.removeprefix("FROM ").partition("@")[0]
    return name.removeprefix("docker-image://"), digest


def _familiar(name: str) -> str:
    return name.removeprefix("docker.io/library/").removeprefix("docker.io/")


def _named_context_cause(sides: Sides) -> Cause | None:
    """What a step takes files from is given to this build in another place."""
    before, after = sides.old_inputs.get("contexts", {}), sides.new_inputs.get("contexts", {})
    written = sides.new_recipe.written(sides.new)
    for name in {**after, **before}:
        old, new = before.get(name), after.get(name)
        if old != new and f"from={name}" in pattern(r"from=[^\s,]+").findall(written):
            sentence = f"the named context {name} went from {old or 'none'} to {new or 'none'}"
            return cause_of("named-context", sentence, f"context {name} changed", old=old, new=new)
    return None


def _meaning_cause(step: Step, before: Any, after: Any) -> Cause:
    """A URL or a branch that stands for something else now."""
    what, (kind, old), new = step.op["identifier"], before[:2], after[1]
    if kind == "git" and old[0] != new[0]:
        sentence = f"the git reference {what} moved from commit {old[0]} to {new[0]}"
        return cause_of("git-moved", sentence, f"git commit {new[0][:12]}", old=old[0], new=new[0])
    if kind == "git":
        sentence = f"the git reference {what} is {new[1]} now, and was {old[1]}"
        return cause_of("git-moved", sentence, f"git {new[1]}", old=old[1], new=new[1])
    short = f"{what} changed"
    if before[2] != after[2]:
        sentence = f"what is behind {what} changed from {before[2]} to {after[2]}"
        return cause_of("url-changed", sentence, short, old=before[2], new=after[2])
    return cause_of("url-changed", f"the server gives {what} another date", short, old=before[3], new=after[3])


def _input_name(step: Step, at: int, source: Step) -> str:
    if source.is_image:
        return f"the image {_familiar(_image(source)[0])}"
    if source.stage and copied_from(step, at):
        return f"stage {source.stage}"
    return _cut(source.name) or "an inline document"


def _date(seconds: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
