"""A function's pickle is used again only while nothing that it captured has changed."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from guildhall import Hall
from guildhall.engine.local import functions


class Text(str):
    """A string that carries something."""

    more = 0


def in_main(source: str, **names: Any) -> Callable[[], Any]:
    """The function `f` of that source, as a script defines it, with these globals."""
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, space)
    made: Callable[[], Any] = space["f"]
    return made


def travelled(hall: Hall, function: Callable[[], Any]) -> Any:
    code, _ = functions.pickled(hall.host, function, "f")
    assert code is not None
    return pickle.loads(code)()


def method_of_a_dict() -> tuple[Callable[[], Any], Callable[[], Any]]:
    table = {"x": 1}
    return in_main("def f(): return look('x')", look=table.get), lambda: table.update(x=2)


def text_with_an_attribute() -> tuple[Callable[[], Any], Callable[[], Any]]:
    text = Text()
    text.more = 1
    return in_main("def f(): return text.more", text=text), lambda: setattr(text, "more", 2)


def text_as_default() -> tuple[Callable[[], Any], Callable[[], Any]]:
    text = Text()
    text.more = 1
    return in_main("def f(text=text): return text.more", text=text), lambda: setattr(text, "more", 2)


def module_made_by_hand() -> tuple[Callable[[], Any], Callable[[], Any]]:
    module: Any = types.ModuleType("made_by_hand")
    module.x = 1
    return in_main("def f(): return module.x", module=module), lambda: setattr(module, "x", 2)


def value_under_another_name() -> tuple[Callable[[], Any], Callable[[], Any]]:
    function = in_main("def f():\n    try: return one\n    except NameError: return 2 * two", one=1)
    return function, lambda: function.__globals__.update(two=function.__globals__.pop("one"))


def class_made_by_a_function() -> tuple[Callable[[], Any], Callable[[], Any]]:
    class Local:
        x = 1

    return in_main("def f(): return local.x", local=Local), lambda: setattr(Local, "x", 2)


@pytest.mark.parametrize(
    "case",
    [
        method_of_a_dict,
        text_with_an_attribute,
        text_as_default,
        module_made_by_hand,
        value_under_another_name,
        class_made_by_a_function,
    ],
)
def test_what_a_function_captured_is_what_it_is_now(hall: Hall, case: Any) -> None:
    function, change = case()
    assert travelled(hall, function) == 1
    change()
    assert travelled(hall, function) == 2


def test_a_function_that_captured_nothing_that_changes_is_pickled_once(hall: Hall) -> None:
    source = "import math\ndef g(x): return x\ndef f(): return g(math.floor(len((y, f))))"
    function = in_main(source, y=1)
    assert functions.pickled(hall.host, function, "f")[0] is functions.pickled(hall.host, function, "f")[0]


def test_a_function_that_others_import_is_pickled_once_whatever_it_refers_to(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again when its name stands for something else, as behind a reload of its module."""
    made, again = (in_main("table = {}\ndef f(): return table.setdefault('x', 1)", table={}) for _ in range(2))
    module: Any = types.ModuleType("imported_by_others")
    monkeypatch.setitem(sys.modules, "imported_by_others", module)
    for function in (made, again):
        function.__module__ = "imported_by_others"
    module.f = made
    by_name = functions.pickled(hall.host, made, "f")[0]
    assert by_name is functions.pickled(hall.host, made, "f")[0]
    assert by_name is not None
    assert pickle.loads(by_name) is made
    module.f = again
    by_value = functions.pickled(hall.host, made, "f")[0]
    assert by_value != by_name
    assert functions.pickled(hall.host, again, "f")[0] == by_name
