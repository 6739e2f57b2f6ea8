from __future__ import annotations

from shared.datafile.secrets import read_dotenv, secrets_of_templates
from shared.model.workspace import SecretValues


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


def test_templates_get_the_secrets_they_name_and_no_others() -> None:
    environ = {"A": "1", "B": "2", "C": "3", "PATH": "/bin", "PIPEHOUSE_ADMIN_TOKEN": "p.x"}
    texts = [
        "SELECT {{tb_secret('A')}}, {{ tb_secret( \"tb_secret_B\", 'd') }}, {{tb_var('none')}}",
        "SELECT {{tb_secret('PIPEHOUSE_ADMIN_TOKEN')}}",
    ]
    assert secrets_of_templates(texts, environ) == {"A": "1", "B": "2"}


def test_secrets_are_not_shown() -> None:
    assert repr(SecretValues(word="hidden")) == "SecretValues(word)"
