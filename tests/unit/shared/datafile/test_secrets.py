from __future__ import annotations

from shared.datafile.secrets import read_dotenv


def test_dotenv_lines_are_read() -> None:
    text = (
        "\ufeff# comment\nA=1\nexport B = two # note\nC='three # four'\n"
        'D="five\\nsix"\nE=\nno line\nF=a#b\r\nG="open\nA=7\n'
    )
    assert read_dotenv(text) == {
        "A": "7",
        "B": "two",
        "C": "three # four",
        "D": "five\nsix",
        "E": "",
        "F": "a#b",
        "G": '"open',
    }
