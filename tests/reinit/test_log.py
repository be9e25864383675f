"""The tail of a log and the last word: bounded, whole lines, no secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinit import log
from reinit.log import TAIL_BYTES, Log, Tail, redacted, say_last_word

KEY = 'wJalrXUtnFEMI/K7"MDENG+bPxRfiCYé'


def tail_of(*texts: str) -> str:
    tail = Tail()
    for text in texts:
        tail.add(text)
    return tail.text()


def test_a_short_log_is_kept_whole() -> None:
    assert tail_of("one\n", "tw", "o\n", "three") == "one\ntwo\nthree"


def test_of_a_long_log_the_last_whole_lines_are_kept() -> None:
    lines = [f"line {number} é\n" for number in range(50_000)]
    kept = tail_of(*lines)
    assert TAIL_BYTES - 40 < len(kept.encode()) <= TAIL_BYTES
    assert "".join(lines).endswith(kept)
    assert kept.startswith("line ")


def test_of_one_endless_line_the_end_is_kept() -> None:
    assert tail_of("é" * 10**6) == "é" * (TAIL_BYTES // 2)
    assert tail_of("x" * 10**6 + "\n") == "x" * (TAIL_BYTES - 1) + "\n"


def test_a_line_that_just_fits_is_not_cut_off() -> None:
    fits = "x" * (TAIL_BYTES - 1) + "\n"
    assert tail_of("before\n", fits) == fits


@given(st.lists(st.text("ab\n\ré", max_size=60), max_size=30))
def test_a_tail_is_as_long_as_it_may_be_and_no_line_of_it_is_half(texts: list[str]) -> None:
    whole = "".join(texts * 100)
    kept = tail_of(*texts * 100)
    assert len(kept.encode()) <= TAIL_BYTES
    if "\r" not in whole and len(whole.encode()) <= TAIL_BYTES:
        assert kept == whole


def test_of_a_progress_bar_the_last_state_is_kept() -> None:
    assert tail_of("before\n", "\rloading 1%", "\rloading 99%", "\rloaded\n", "dos\r\n") == "before\nloaded\ndos\n"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"])
def test_a_secret_is_blotted_out_also_as_json_and_urls_write_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, KEY + "\n")
    events = StringIO()
    spoken = Log(events, Tail())
    spoken.emit("failed", f"the key {KEY} is refused")
    spoken.tail.add(f"GET /?token=wJalrXUtnFEMI%2FK7%22MDENG%2BbPxRfiCY%C3%A9\n{KEY}")
    kept = spoken.tail.text()
    assert "wJalr" not in kept
    assert kept.count(f"<{name}>") == 3


def test_half_a_secret_at_the_cut_goes_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "0123456789" * 3)
    for before in range(60):
        kept = tail_of(
            "-" * before + "hf_" + "0123456789" * 3 + "\n", "\r" + "x" * (2 * TAIL_BYTES - 30) + "\r", "end\n"
        )
        assert "789" not in kept


def test_a_word_too_short_to_be_secret_stays() -> None:
    assert redacted("a text", {"HF_TOKEN": "a"}) == "a text"
    assert redacted("a text", {"HF_TOKEN": ""}) == "a text"


def test_events_of_other_ranks_are_heard_only_where_they_fail() -> None:
    events = StringIO()
    second = Log(events, Tail(), is_first=False)
    second.emit("step", "nobody needs this twice")
    second.emit("failed", "why \udcff")
    assert [json.loads(line)["message"] for line in events.getvalue().splitlines()] == ["why ?"]
    assert second.tail.text() == events.getvalue()


def test_what_python_code_writes_is_heard_and_still_reaches_the_descriptor() -> None:
    script = """
import logging, os, sys, warnings
from reinit.log import open_log
log = open_log(is_first=True)
print("printed")
sys.stdout.writelines(["a list ", "of lines\\n"])
warnings.warn("warned")
logging.warning("logged")
os.write(2, b"from C\\n")
log.emit("done", "said")
print("lone \\udcff")
os.write(2, ascii(log.tail.text()).encode())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *through, tail = done.stderr.splitlines()
    heard = ["printed", "a list of lines", "<string>:7: UserWarning: warned", "WARNING:root:logged"]
    assert through == [*heard, "from C", "lone \\udcff"]
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["said"]
    kept = str(eval(tail)).splitlines()
    assert kept[:4] == heard
    assert json.loads(kept[4])["message"] == "said"
    assert kept[5:] == ["lone ?"]


@pytest.fixture
def termination_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Empty, as a container finds it."""
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setattr(log, "TERMINATION_LOG", path)
    return path


def test_the_last_word_is_one_line_and_fits(termination_log: Path) -> None:
    say_last_word("rows are wrong\n  expected: 13\n  got:      12 \udcff\n")
    assert termination_log.read_text() == "rows are wrong; expected: 13; got: 12 ?"
    termination_log.write_text("")
    say_last_word("é" * 5000)
    assert termination_log.read_text() == "é" * 2048


def test_the_first_of_several_ranks_to_say_why_has_the_last_word(termination_log: Path) -> None:
    say_last_word("the rows are wrong")
    say_last_word("my peer is gone")
    assert termination_log.read_text() == "the rows are wrong"


def test_a_last_word_holds_no_secret(termination_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", KEY)
    say_last_word(f"refused: {KEY}")
    assert termination_log.read_text() == "refused: <AWS_SESSION_TOKEN>"


def test_outside_a_pod_and_where_the_file_cannot_be_written_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in (tmp_path / "none", tmp_path):
        monkeypatch.setattr(log, "TERMINATION_LOG", path)
        say_last_word("nobody hears this")
    assert list(tmp_path.iterdir()) == []
