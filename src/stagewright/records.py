"""Data classes that cost next to nothing to define: those of the standard library, made when they are first used.

A build that finds all in its cache defines some two hundred data classes and makes instances of a few. The standard
library compiles half a dozen methods for each definition and imports `inspect` to do so, which is most of what such a
build would do. Here only `__init__` is compiled, for a class that has many instances; all else is shared by all.

`dataclass`, `field` and `replace` mean what they mean in `dataclasses`, as far as they go; type checkers know them by
`dataclass_transform`. Every class has slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")
_MISSING: Any = object()
# Compiling an `__init__` takes as long as that many instances do without.
_MANY = 50


class Field:
    """One field of a data class."""

    __slots__ = ("compare", "default", "default_factory", "init", "kw_only", "name", "repr")

    def __init__(self, default: Any, default_factory: Any, init: bool, repr: bool, compare: bool) -> None:
        self.name = ""
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.repr = repr
        self.compare = compare
        self.kw_only = False


def field(
    *,
    default: Any = _MISSING,
    default_factory: Any = _MISSING,
    init: bool = True,
    repr: bool = True,
    compare: bool = True,
) -> Any:
    """A field with more than a plain default, as in `dataclasses.field`."""
    return Field(default, default_factory, init, repr, compare)


@overload
def dataclass(cls: type[T], /) -> type[T]: ...
@overload
def dataclass(
    *, frozen: bool = False, slots: bool = True, eq: bool = True, kw_only: bool = False
) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(field_specifiers=(field,))
def dataclass(
    cls: type[T] | None = None,
    /,
    *,
    frozen: bool = False,
    slots: bool = True,
    eq: bool = True,
    kw_only: bool = False,
) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class a data class with slots, as `dataclasses.dataclass(slots=True)`; `slots` is there to be read.

    A `frozen` class cannot be assigned to and can be hashed if its values can. Without `eq` instances are compared by
    identity.
    """
    if cls is not None:
        return _build(cls, frozen, eq, kw_only)
    return lambda decorated: _build(decorated, frozen, eq, kw_only)


def _build(cls: type[T], frozen: bool, eq: bool, kw_only: bool) -> type[T]:
    fields: dict[str, Field] = {}
    for base in reversed(cls.__mro__[1:]):
        fields.update(base.__dict__.get("__record_fields__", {}))
    namespace = dict(cls.__dict__)
    annotations: dict[str, Any] = namespace.get("__annotations__", {})
    own = [name for name, kind in annotations.items() if not str(kind).startswith("ClassVar")]
    for name in own:
        default = namespace.pop(name, _MISSING)
        item = default if isinstance(default, Field) else Field(default, _MISSING, True, True, True)
        item.name = name
        item.kw_only = kw_only
        fields[name] = item
    inherited = {name for base in cls.__mro__[1:] for name in base.__dict__.get("__record_fields__", ())}
    namespace.pop("__dict__", None)
    namespace.pop("__weakref__", None)
    namespace["__slots__"] = tuple(name for name in own if name not in inherited)
    namespace["__record_fields__"] = fields
    namespace["__match_args__"] = tuple(item.name for item in fields.values() if item.init and not item.kw_only)
    namespace.setdefault("__repr__", _repr)
    if eq:
        namespace.setdefault("__eq__", _eq)
        # A class that is compared by values must not be hashed by identity.
        if "__hash__" not in cls.__dict__ or namespace["__hash__"] is None:
            namespace["__hash__"] = _hash if frozen else None
    if frozen:
        namespace["__setattr__"] = _refuse
        namespace["__delattr__"] = _refuse
        # Copies are made slot by slot, which assignment refuses.
        namespace["__reduce__"] = _reduce

    few_left = _MANY

    def first_inits(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal few_left
        few_left -= 1
        values = _bind(made, args, kwargs) if few_left > 0 else None
        if values is None:
            made.__init__ = _compile_init(made, fields, frozen)
            made.__init__(self, *args, **kwargs)
            return
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if hasattr(made, "__post_init__"):
            self.__post_init__()

    namespace["__init__"] = first_inits
    metaclass: Any = type(cls)
    made = metaclass(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    return made  # type: ignore[no-any-return]


def _bind(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The fields' values by name; None for arguments that do not fit, of which a compiled `__init__` can say why."""
    positional: tuple[str, ...] = cls.__match_args__
    values = dict(zip(positional, args, strict=False))
    if len(args) > len(positional) or not values.keys().isdisjoint(kwargs):
        return None
    values |= kwargs
    unknown = len(values)
    fields: dict[str, Field] = cls.__record_fields__
    for name, item in fields.items():
        if name in values:
            if not item.init:
                return None
            unknown -= 1
        elif item.default_factory is not _MISSING:
            values[name] = item.default_factory()
        elif item.default is not _MISSING:
            values[name] = item.default
        elif item.init:
            return None
    return None if unknown else values


def _compile_init(cls: Any, fields: dict[str, Field], frozen: bool) -> Callable[..., None]:
    scope: dict[str, Any] = {"_MISSING": _MISSING}
    positional: list[str] = []
    keyword: list[str] = []
    body: list[str] = []
    for name, item in fields.items():
        value = name
        if item.default_factory is not _MISSING:
            scope[f"_make_{name}"] = item.default_factory
            default = "=_MISSING"
            value = f"_make_{name}() if {name} is _MISSING else {name}" if item.init else f"_make_{name}()"
        elif item.default is not _MISSING:
            scope[f"_default_{name}"] = item.default
            default = f"=_default_{name}"
            value = name if item.init else f"_default_{name}"
        else:
            default = ""
        if item.init:
            (keyword if item.kw_only else positional).append(name + default)
        elif not default:
            continue
        if frozen:
            scope[f"_set_{name}"] = getattr(cls, name).__set__
            body.append(f"_set_{name}(self, {value})")
        else:
            body.append(f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ["self", *positional, *(["*", *keyword] if keyword else [])]
    source = f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body or ["pass"])
    exec(source, scope)  # noqa: S102 - the names are those of a class's own annotations
    init: Callable[..., None] = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


def replace(instance: T, **changes: Any) -> T:
    """A copy of a data class's instance with some fields changed. Raises TypeError for names that it does not have."""
    fields: dict[str, Field] = type(instance).__record_fields__  # type: ignore[attr-defined]
    values = {name: getattr(instance, name) for name, item in fields.items() if item.init}
    return type(instance)(**(values | changes))


def _compared(instance: Any) -> tuple[Any, ...]:
    return tuple(getattr(instance, name) for name, item in instance.__record_fields__.items() if item.compare)


def _eq(self: Any, other: object) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    return self is other or _compared(self) == _compared(other)


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, item in self.__record_fields__.items() if item.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _refuse(self: Any, name: str, value: object = None) -> None:
    raise AttributeError(f"cannot assign to field {name!r} of a frozen {type(self).__qualname__}")


def _restore(cls: type[T], values: dict[str, Any]) -> T:
    instance = cls.__new__(cls)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance


def _reduce(self: Any) -> tuple[Any, ...]:
    return _restore, (type(self), {name: getattr(self, name) for name in self.__record_fields__})
