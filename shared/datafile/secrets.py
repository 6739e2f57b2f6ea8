"""Secrets in .datasource and .connection files: ``{{ tb_secret("NAME", "default") }}``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.lexer import Instruction
from shared.model.workspace import SecretValues, did_you_mean

# Not past the next {{, or a text full of them would be searched to its end for each.
_TAG = re.compile(r"\{\{((?:(?!\{\{).)*?)\}\}", re.DOTALL)
_CALL = re.compile(
    r"""\s*tb_secret\(\s*(["'])(?P<name>[^"']*)\1"""
    r"""(?:\s*,\s*(["'])(?P<default>.*?)\3)?\s*,?\s*\)\s*""",
    re.DOTALL,
)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_NAMED = re.compile(r"""\btb_(?:secret|var)\s*\(\s*["'](?:tb_secret_)?([^"']+)["']""")
_EXPANDED = ("KAFKA_", "IMPORT_", "S3_", "GCS_", "DYNAMODB_", "PG_")
_DOTENV_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][\w.\-]*)\s*=\s*(.*?)\s*\Z")


def resolved(instruction: Instruction, secrets: Mapping[str, str], diagnostics: Diagnostics) -> str:
    """The value with its secrets put in; a missing one is reported and stays as written.

    ``$NAME`` and ``${NAME}`` of a known name are put in too, in settings of connections only.
    """

    def secret(match: re.Match[str]) -> str:
        call = _CALL.fullmatch(match[1])
        span = instruction.body.span(match.start())
        if call is None:
            hint = 'Write {{ tb_secret("NAME") }}.'
            diagnostics.error("bad_secret", f"'{match[0][:60]}' is not a secret.", span, hint)
            return match[0]
        value = secrets.get(call["name"], call["default"])
        if value is None:
            diagnostics.error(
                "missing_secret",
                f"Secret '{call['name']}' is not set.",
                span,
                did_you_mean(call["name"], secrets) or "Set it in .env or in the environment.",
            )
            return match[0]
        return value

    value = instruction.value
    if instruction.command.startswith(_EXPANDED):
        # Before the secrets, so that a dollar sign within a secret stays one.
        value = _VARIABLE.sub(lambda m: secrets.get(m[1] or m[2], m[0]), value)
    return _TAG.sub(secret, value)


def secrets_of_templates(texts: Iterable[str], secrets: Mapping[str, str]) -> SecretValues:
    """The secrets that templates name, and no others: an environment holds more than it should.

    Our own settings are never among them.
    """
    named = {name for text in texts for name in _NAMED.findall(text)}
    return SecretValues(
        {n: secrets[n] for n in named if n in secrets and not n.startswith("PIPEHOUSE_")}
    )


def read_dotenv(text: str) -> dict[str, str]:
    """The ``NAME=value`` lines of a .env file; comments and lines of other forms are skipped."""
    found: dict[str, str] = {}
    for line in text.removeprefix("\ufeff").splitlines():
        match = _DOTENV_LINE.match(line)
        if match is None:
            continue
        value = match[2]
        if value[:1] in ("'", '"') and (end := value.find(value[0], 1)) > 0:
            quote, value = value[0], value[1:end]
            if quote == '"':
                value = value.replace("\\n", "\n")
        else:
            value = re.split(r"\s#", value, maxsplit=1)[0].rstrip()
        found[match[1]] = value
    return found
