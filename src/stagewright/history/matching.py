"""Which step of an earlier build a step of this one is: those of one stage are aligned by their text.

So an instruction that was inserted is a new one, and those behind it are what they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from stagewright.history.recipe import Recipe
from stagewright.history.steps import Step
from stagewright.patterns import pattern

# The table that aligns two stretches has as many cells as their lengths multiplied.
_MOST_CELLS = 250_000
_MOST_PAIRS = 10_000

Token = tuple[str, str]
# What a stage without a name is called, and the only one.
_NUMBERED = pattern(r"stage-\d+|")


def match(
    old: Sequence[Step], old_recipe: Recipe, new: Sequence[Step], new_recipe: Recipe
) -> tuple[dict[int, int], Collection[str]]:
    """The indexes of the old steps by those of the new ones, and the new names of stages; what is new has none."""
    matched: dict[int, int] = {}
    old_stages, new_stages = _by_stage(old), _by_stage(new)
    old_tokens = {name: [_token(old[index], old_recipe) for index in indexes] for name, indexes in old_stages.items()}
    new_tokens = {name: [_token(new[index], new_recipe) for index in indexes] for name, indexes in new_stages.items()}
    if old_recipe.text == new_recipe.text:
        places = {old_recipe.stage_of(old[indexes[-1]]): name for name, indexes in old_stages.items()}
        found = {name: places.get(new_recipe.stage_of(new[indexes[-1]])) for name, indexes in new_stages.items()}
        stages = {name: before for name, before in found.items() if before is not None}
    else:
        # A name that both Dockerfiles have is no other stage's, be it that only one of the builds needed it.
        names = set(old_recipe.stage_names) & set(new_recipe.stage_names)
        stages = _same_stages(old_tokens, new_tokens, names)
    for stage, before in stages.items():
        olds, news = old_stages[before], new_stages[stage]
        matched.update({news[a]: olds[b] for a, b in align(old_tokens[before], new_tokens[stage])})
    for what in (_digest, _image):
        taken = set(matched.values())
        known = {what(step): index for index, step in enumerate(old) if index not in taken}
        for index, step in enumerate(new):
            if index not in matched and (same := what(step)) and same in known:
                matched[index] = known[same]
    return matched, stages.keys()


def _digest(step: Step) -> str:
    return step.digest


def _image(step: Step) -> str:
    """The name of an image that no instruction stands for, without its digest; "" for all else."""
    return step.name.partition("@")[0] if step.is_image and not step.is_instruction else ""


def _by_stage(steps: Sequence[Step]) -> dict[str, list[int]]:
    stages: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        if step.is_instruction:
            stages.setdefault(step.stage, []).append(index)
    for indexes in stages.values():
        indexes.sort(key=lambda index: (steps[index].lines or [0, 0])[0])
    return stages


def _same_stages(
    old: Mapping[str, list[Token]], new: Mapping[str, list[Token]], fixed: Collection[str] = ()
) -> dict[str, str]:
    """The old names of stages by the new ones: those of one name, and of the others those that have most in common.

    `fixed` names are those of one stage, whichever builds had it.
    Numbers are no names: where a stage was inserted, those behind it have others. Of those, what is the same is looked
    for first; the rest is taken in order where there is too much of it to compare each with each.
    """
    same = {name: name for name in new if name in old and not _NUMBERED.fullmatch(name)}
    old = {name: tokens for name, tokens in old.items() if name not in fixed}
    new = {name: tokens for name, tokens in new.items() if name not in fixed}
    unchanged: dict[tuple[Token, ...], list[str]] = {}
    for name in reversed([name for name in old if name not in same]):
        unchanged.setdefault(tuple(old[name]), []).append(name)
    for name in [name for name in new if name not in same]:
        if known := unchanged.get(tuple(new[name])):
            same[name] = known.pop()
    taken = set(same.values())
    olds, news = [name for name in old if name not in taken], [name for name in new if name not in same]
    if len(olds) * len(news) > _MOST_PAIRS:
        return {**same, **dict(zip(news, olds, strict=False))}
    common = {(a, b): (Counter(new[a]) & Counter(old[b])).total() for a in news for b in olds}
    before, after = ({name: place for place, name in enumerate(names)} for names in (olds, news))
    pairs = sorted(common, key=lambda pair: (-common[pair], abs(after[pair[0]] - before[pair[1]])))
    for stage, known_as in pairs:
        if stage not in same and known_as not in taken:
            same[stage] = known_as
            taken.add(known_as)
    return same


def _token(step: Step, recipe: Recipe) -> Token:
    return step.kind, recipe.written(step)


def align(old: Sequence[Token], new: Sequence[Token]) -> list[tuple[int, int]]:
    """Pairs of indexes (new, old): equal tokens in their order, and between them those of one keyword."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    middle = _common(old[start : len(old) - end], new[start : len(new) - end])
    pairs = [(index, index) for index in range(start)]
    pairs += [(start + a, start + b) for a, b in middle]
    pairs += [(len(new) - end + index, len(old) - end + index) for index in range(end)]
    return _with_changed(old, new, pairs)


def _common(old: Sequence[Token], new: Sequence[Token]) -> list[tuple[int, int]]:
    """A longest common subsequence as pairs (new, old); only an ordered one of unique tokens where that is too much."""
    if len(old) * len(new) > _MOST_CELLS:
        places = {token: index for index, token in enumerate(old)}
        pairs, last = [], -1
        for index, token in enumerate(new):
            if places.get(token, -1) > last:
                last = places[token]
                pairs.append((index, last))
        return pairs
    lengths = [[0] * (len(old) + 1) for _ in range(len(new) + 1)]
    for a in reversed(range(len(new))):
        for b in reversed(range(len(old))):
            same = new[a] == old[b]
            lengths[a][b] = lengths[a + 1][b + 1] + 1 if same else max(lengths[a + 1][b], lengths[a][b + 1])
    pairs, a, b = [], 0, 0
    while a < len(new) and b < len(old):
        if new[a] == old[b]:
            pairs.append((a, b))
            a, b = a + 1, b + 1
        elif lengths[a + 1][b] >= lengths[a][b + 1]:
            a += 1
        else:
            b += 1
    return pairs


def _with_changed(old: Sequence[Token], new: Sequence[Token], pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs, and between two of them the instructions of which only the text is another."""
    found = [*pairs, *_moved(old, new, pairs)]
    moved_to, moved_from = {a for a, _ in found}, {b for _, b in found}
    last_a, last_b = -1, -1
    for a, b in [*pairs, (len(new), len(old))]:
        rest = [index for index in range(last_b + 1, b) if index not in moved_from]
        for index in range(last_a + 1, a):
            if index in moved_to:
                continue
            partner = next((other for other in rest if _keyword(old[other]) == _keyword(new[index])), None)
            if partner is not None:
                found.append((index, partner))
                rest = [other for other in rest if other > partner]
        last_a, last_b = a, b
    return found


def _moved(old: Sequence[Token], new: Sequence[Token], pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What stands in another place."""
    taken = {b for _, b in pairs}
    places: dict[Token, list[int]] = {}
    for index, token in enumerate(old):
        if index not in taken:
            places.setdefault(token, []).append(index)
    taken = {a for a, _ in pairs}
    for index, token in enumerate(new):
        if index not in taken and places.get(token):
            yield index, places[token].pop(0)


def _keyword(token: Token) -> tuple[str, str]:
    kind, text = token
    return kind, text.split(None, 1)[0].upper() if text.split() else ""
