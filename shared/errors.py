"""Every error this product raises on purpose, in one tree.

    AppError                            code, http_status, retriable, exit_code, hint
    ├─ ConfigError                      only while starting: a bad setting, a port in use
    │  └─ DataFolderOwnedError          another process owns the data folder
    ├─ UserError                        the caller can mend it
    │  ├─ BadRequestError               400, malformed body, header or query string
    │  ├─ DatafileError                 400, carries diagnostics with file, line and column
    │  ├─ TemplateError                 400, a template that cannot be rendered
    │  ├─ ParameterError                400, every bad parameter of a request, not the first
    │  ├─ QueryError                    400, ClickHouse refused the SQL
    │  │  └─ QueryTimeoutError          408
    │  ├─ AuthenticationError           403, no token, or one we do not know
    │  ├─ PermissionDeniedError         403, a token without the scope
    │  ├─ NotFoundError                 404, with the near miss
    │  ├─ ConflictError                 409, the name is taken
    │  └─ TooLargeError                 413
    ├─ UnavailableError                 503, retriable, retry_after_s
    │  ├─ ClickHouseUnavailableError
    │  ├─ LogUnavailableError
    │  └─ SaturatedError                429, more than we take at the moment
    ├─ InsertError                      what became of an insert, see shared/clickhouse/failures.py
    └─ DataLossRefusedError             409, a deployment would destroy or rewrite data

Policy is data on the class: whoever handles an error reads ``http_status``, ``retriable`` and
``exit_code`` and never asks which class it is. Anything that is not an ``AppError`` is our own
mistake: logged with its traceback and answered with 500 and a request id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class AppError(Exception):
    """Root of the tree.

    Args:
        message: One line that says what is wrong and where.
        hint: One line that says what to do, shown after the message.
        errors: Details for the ``errors`` key of the HTTP envelope, one mapping a mistake.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    retriable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        errors: Sequence[Mapping[str, object]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigError(AppError):
    """The process cannot start as it is configured."""

    code = "bad_configuration"
    exit_code = 4


class DataFolderOwnedError(ConfigError):
    """Another process has the data folder open."""

    code = "data_folder_owned"


class UserError(AppError):
    """The caller can mend it."""

    code = "bad_request"
    http_status = 400


class BadRequestError(UserError):
    """A malformed body, header or query string."""


class DatafileError(UserError):
    """A project that does not load; ``errors`` has one entry a diagnostic."""

    code = "datafile_error"
    exit_code = 3


class TemplateError(UserError):
    """A template that cannot be parsed or rendered."""

    code = "template_error"


class ParameterError(UserError):
    """Missing or bad parameters of a request; ``errors`` names each of them."""

    code = "parameter_error"


class TemplateCustomError(UserError):
    """What a template raised on purpose; ``custom_error()`` may choose another status.

    Args:
        body: What the caller gets instead of the usual envelope.
        http_status: 400 to 599; here it belongs to the instance.
    """

    code = "template_raised"

    def __init__(self, body: Mapping[str, object], *, http_status: int = 400) -> None:
        super().__init__(str(body.get("error", "The template refused the request.")))
        self.body = dict(body)
        # The template chooses the status, so the class cannot know it.
        self.http_status = http_status  # type: ignore[misc]


class QueryError(UserError):
    """The SQL was refused: ClickHouse cannot run it, or it does what is not allowed here.

    Args:
        message: ClickHouse's own text, without version and stack.
        clickhouse_code: Its error number, 0 where there is none.
        clickhouse_name: Its error name, for instance ``UNKNOWN_IDENTIFIER``.
    """

    code = "query_error"

    def __init__(
        self,
        message: str,
        *,
        clickhouse_code: int = 0,
        clickhouse_name: str = "",
        hint: str | None = None,
        errors: Sequence[Mapping[str, object]] = (),
    ) -> None:
        super().__init__(message, hint=hint, errors=errors)
        self.clickhouse_code = clickhouse_code
        self.clickhouse_name = clickhouse_name


class QueryTimeoutError(QueryError):
    """The query ran into its time limit."""

    code = "query_timeout"
    http_status = 408


class AuthenticationError(UserError):
    """No token, or one that is unknown or expired."""

    code = "bad_token"
    http_status = 403


class PermissionDeniedError(UserError):
    """The token is known but lacks the scope."""

    code = "missing_scope"
    http_status = 403


class NotFoundError(UserError):
    """No such resource; the hint names the near miss."""

    code = "not_found"
    http_status = 404


class ConflictError(UserError):
    """What is there already stands against the request."""

    code = "conflict"
    http_status = 409


class TooLargeError(UserError):
    """A body, a line, SQL, a result or the memory of a query over its limit."""

    code = "too_large"
    http_status = 413


class UnavailableError(AppError):
    """Something we need does not answer; the same request may work later.

    Args:
        message: What does not answer.
        retry_after_s: What ``Retry-After`` says.
    """

    code = "unavailable"
    http_status = 503
    retriable = True
    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        hint: str | None = None,
        errors: Sequence[Mapping[str, object]] = (),
    ) -> None:
        super().__init__(message, hint=hint, errors=errors)
        self.retry_after_s = retry_after_s


class ClickHouseUnavailableError(UnavailableError):
    """ClickHouse does not answer, or is too busy to."""

    code = "clickhouse_unavailable"


class LogUnavailableError(UnavailableError):
    """The log cannot take or give records, a full disk included."""

    code = "log_unavailable"


class SaturatedError(UnavailableError):
    """More than we take at the moment."""

    code = "saturated"
    http_status = 429


class InsertError(AppError):
    """An insert that was not acknowledged; the subclasses say what that means for its rows."""

    code = "insert_error"


class DataLossRefusedError(AppError):
    """A deployment step would destroy or rewrite data and was not asked to."""

    code = "data_loss_refused"
    http_status = 409
