"""Finding a defense, an attack, a model or a data set by name, and reading it from a specification such as ``noise(std=0.01)``."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

_SPECIFICATION = re.compile(r"\s*([A-Za-z0-9][\w:.-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_MEMBER = ":NAME"


class SpecificationError(ValueError):
    """A name, parameter or specification that cannot be used; its text says what was given and what is expected."""


@dataclasses.dataclass(frozen=True)
class Named:
    """What a registry finds by its name; parameters are dataclass fields, checked in ``__post_init__``."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    #: Whether labels show the first parameter also where it has its default.
    first_shown: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """``name(parameter=value, ...)`` with the first parameter and those that differ from their defaults; it parses back to an
        equal object. The first one is what a defense is mostly varied by, so tables always show it."""
        return written(self)

    def parameters(self) -> dict[str, Any]:
        """All parameters by name, defaults included."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}


def written(named: Named, swept: str | None = None) -> str:
    """The label of an object, in which a swept parameter stands by its name alone, for all its values."""
    fields, name = [field for field in dataclasses.fields(named) if field.init], named.name
    if name.endswith(_MEMBER):
        name = f"{name.removesuffix(_MEMBER)}:{getattr(named, fields.pop(0).name)}"
    given = [
        field.name if field.name == swept else f"{field.name}={value!r}"
        for place, field in enumerate(fields)
        if (value := getattr(named, field.name)) != field.default or field.name == swept
        or (place == 0 and named.first_shown and value is not None)
    ]
    return f"{name}({', '.join(given)})" if given else name


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Named classes of one kind. Each is a frozen dataclass with a class attribute ``name``; its fields are its parameters. A name
    that ends in ``:NAME`` is that of a group: ``torchvision:NAME`` of ``torchvision:resnet18``; the first field is the member."""

    def __init__(self, kind: str, base: type[T], *classes: type[T]) -> None:
        self.kind, self.base = kind, base
        self._classes: dict[str, type[T]] = {}
        for cls in classes:
            self.register(cls)

    def register(self, cls: type[T]) -> type[T]:
        """Add a class; usable as a decorator.

        Raises:
            SpecificationError: the class is not a dataclass derived from the base, has no usable name, or its name is taken.
        """
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            raise SpecificationError(f"{cls!r} is not a {self.kind}: it must derive from {self.base.__name__}")
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not re.fullmatch(rf"[a-z0-9]+(-[a-z0-9]+)*({_MEMBER})?", name):
            raise SpecificationError(
                f"{self.kind} class {cls.__name__} needs a class attribute `name` in lower case with dashes, "
                f"such as 'my-{self.kind}', got {name!r}"
            )
        if "__dataclass_params__" not in vars(cls):
            raise SpecificationError(f"{self.kind} class {cls.__name__} must be decorated with @dataclass(frozen=True)")
        known = self._classes.get(name)
        if known is not None and known is not cls:
            raise SpecificationError(f"the {self.kind} name {name!r} is already taken by {known.__module__}.{known.__name__}")
        self._classes[name] = cls
        return cls

    def __iter__(self) -> Iterator[type[T]]:
        return iter(self._classes.values())

    def names(self) -> list[str]:
        return list(self._classes)

    def find(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            SpecificationError: there is none; the text names the nearest one.
        """
        if name not in self._classes:
            raise SpecificationError(unknown(self.kind, name, self._classes))
        return self._classes[name]

    def create(self, specification: str) -> T:
        """Build an object from ``name`` or ``name(parameter=value, ...)``; see :func:`parse`.

        Raises:
            SpecificationError: the text does not parse, or the name, a parameter or a value is not acceptable.
        """
        return self.build(*parse(specification, self.kind))

    def build(self, name: str, arguments: Mapping[str, Any]) -> T:
        """Build an object from its name and arguments.

        Raises:
            SpecificationError: the name, a parameter or a value is not acceptable.
        """
        group, colon, member = name.partition(":")
        members = (member,) if colon and group + _MEMBER in self._classes else ()
        cls = self.find(group + _MEMBER if members else name)
        known = [field.name for field in dataclasses.fields(cls) if field.init][len(members):]
        for argument in arguments:
            if argument not in known:
                raise SpecificationError(unknown(f"parameter of {self.kind} {name}", argument, known))
        try:
            return cls(*members, **arguments)
        except (ValueError, TypeError) as error:
            given = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
            raise SpecificationError(f"{self.kind} {name}({given}): {error}") from error


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The text for a name that does not exist: the nearest known one, and all of them."""
    known = list(known)
    begun = [other for other in known if len(name) > 2 and other.startswith(name)]
    nearest = begun[:1] or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    shown = known if len(known) <= 12 else [*known[:12], "..."]
    listing = f" (known: {', '.join(shown)})" if known else " (it has none)"
    return f"unknown {kind} {name!r}{guess}{listing}"


def parse(specification: str, kind: str, *, lists: bool = False) -> tuple[str, dict[str, Any]]:
    """Split ``name(parameter=value, ...)`` into the name and its arguments. Values are Python literals, and bare words are texts:
    ``lenet(activation=tanh)``. A list stands for several values, one at a time; only where ``lists`` is set.

    Raises:
        SpecificationError: the text does not parse, or has a list where none is allowed.
    """
    expected = f"expected NAME or NAME(parameter=value, ...), such as noise(std=0.01), got {specification!r}"
    match = _SPECIFICATION.fullmatch(specification)
    if match is None:
        raise SpecificationError(f"cannot read {kind}: {expected}")
    name, text = match.group(1), match.group(2)
    if not text or not text.strip():
        return name, {}
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("parameters must be written as name=value")
        arguments = {str(keyword.arg): ast.literal_eval(_WordsAsTexts().visit(keyword.value)) for keyword in call.keywords}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise SpecificationError(f"cannot read {kind}: {expected}") from error
    for argument, value in arguments.items():
        if isinstance(value, list) and not lists:
            raise SpecificationError(f"{kind} {specification.strip()!r}: {argument} takes one value here, got {value!r}; only the "
                                     "defenses of a grid take lists, which make families (defenses.family)")
    return name, arguments


class _WordsAsTexts(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.copy_location(ast.Constant(node.id), node)


def split_composition(specification: str) -> list[str]:
    """Split ``a(x=1)+b`` at each ``+`` outside of brackets and quotes."""
    parts, depth, quote, current = [], 0, "", ""
    for character in specification:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "+" and depth == 0:
            parts.append(current)
            current = ""
            continue
        current += character
    return [*parts, current]
