"""Values come back from a common reader of YAML as they went in, whatever their text."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.yamltext import document, quoted

LEAVES = st.one_of(st.text(), st.integers(), st.booleans(), st.sampled_from(["y", "1e5", "0o7", "null", "~", "", "$("]))
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4))
)


@given(st.dictionaries(st.text(max_size=30), VALUES, max_size=5))
@example({"a": {}, "b": [], "c": [[], {}], "d": [[1, [2]], {"e": [{"f": "g", "h": [True]}]}]})
@example({"on": "y", "true": "no", "1": 1, "a: b": "c # d", "- a": "\t", "": "\x85\u2028\ufeff\x7f\ud800"})
def test_a_common_reader_gets_the_value_back(value: dict[str, Any]) -> None:
    assert yaml.safe_load(document(value)) == value


@given(st.text())
def test_text_stays_on_one_line(text: str) -> None:
    assert len(quoted(text).splitlines()) == 1


@pytest.mark.parametrize("value", [1.5, None, {1, 2}, b"x"])
def test_what_a_manifest_never_holds_is_refused_and_not_guessed_at(value: object) -> None:
    with pytest.raises(TypeError, match="expected a dict, list, text, integer or boolean"):
        document({"a": [value]})


def test_lists_are_indented_as_kubectl_prints_them() -> None:
    text = 'aa:\n- bb: "c"\n  dd:\n  - 1\n  - - "e"\n    - true\nff: {}\n"y": []\n'
    assert document({"aa": [{"bb": "c", "dd": [1, ["e", True]]}], "ff": {}, "y": []}) == text
