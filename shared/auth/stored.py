"""The tokens of a workspace, kept in ClickHouse and shared by all its processes.

Changes of other processes are seen within about a second. While ClickHouse does not answer, the
tokens known last go on.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence

import structlog
from msgspec import Struct, structs

from shared.auth.cipher import TokenCipher
from shared.auth.lookup import TokenLookup
from shared.auth.records import (
    Details,
    FileToken,
    TokenRecord,
    changed_by_files,
    file_tokens,
    is_reserved,
)
from shared.auth.table import Loaded, TokenTable
from shared.auth.tokens import Grant, new_token
from shared.clickhouse.failures import InsertFailureError
from shared.clock import Clock
from shared.errors import (
    ConflictError,
    NotFoundError,
    QueryError,
    UnavailableError,
    UserError,
)
from shared.model.workspace import Workspace, did_you_mean

REFRESH_INTERVAL_S = 1.0

_MAY_NOT_WRITE = frozenset({164, 392, 497})  # read-only, query not allowed, access denied

_MAX_REMEMBERED = 10_000

_log = structlog.get_logger(__name__)

Change = Callable[[TokenRecord], TokenRecord]


class TokensReadOnlyError(UserError):
    """The process that was asked has a ClickHouse user that may not write."""

    code = "tokens_read_only"
    http_status = 409


class TokenChanges(Struct, frozen=True, kw_only=True):
    """What the datafiles of a project changed, by name."""

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


class StoredTokens:
    """A ``TokenStore`` whose tokens can be changed; made by ``open_tokens``.

    Args:
        table: Where tokens are kept.
        cipher: What they are encrypted with.
        lookup: What requests ask.
        clock: Where time comes from.
    """

    def __init__(
        self, table: TokenTable, cipher: TokenCipher, lookup: TokenLookup, clock: Clock
    ) -> None:
        self._table = table
        self._cipher = cipher
        self._lookup = lookup
        self._clock = clock
        self._changing = asyncio.Lock()
        self._stamp = ""
        self._version = 0
        self._by_name: dict[str, TokenRecord] = {}
        self._foreign: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<StoredTokens {len(self._by_name)} tokens>"

    def grant(self, token: bytes) -> Grant:
        """See ``TokenStore``."""
        return self._lookup.grant(token)

    @property
    def admin(self) -> TokenRecord:
        """The administrator's token, as if it were kept."""
        return self._lookup.admin

    # What is there -----------------------------------------------------------------------------

    def records(self) -> list[TokenRecord]:
        """All tokens but the administrator's, by name."""
        return sorted(self._by_name.values(), key=lambda record: record.name)

    def find(self, ref: str) -> TokenRecord:
        """The token of that name or id, the administrator's included.

        Raises:
            NotFoundError: There is none.
        """
        found = self._by_name.get(ref)
        if found is None and ref in ("admin", self.admin.id, self.admin.name):
            found = self.admin
        if found is None:
            found = next((r for r in self._by_name.values() if r.id == ref), None)
        if found is None:
            hint = did_you_mean(ref, self._by_name)
            raise NotFoundError(f"Token '{ref}' not found.", hint=hint)
        return found

    def reveal(self, record: TokenRecord) -> str:
        """The token itself."""
        if record.id == self.admin.id:
            return self._lookup.admin_token
        return self._cipher.decrypt(record.sealed, record.id)

    def sign(self, grant: Grant, expires_at_s: int) -> str:
        """A JWT, which is kept nowhere.

        Raises:
            BadRequestError: A JWT cannot allow that, is expired already, or the key is too short.
        """
        return self._lookup.jwt_key.sign(grant, expires_at_s)

    # Changes -----------------------------------------------------------------------------------

    async def create(self, name: str, details: Details) -> TokenRecord:
        """A new token.

        Raises:
            ConflictError: The name is taken.
        """
        async with self._changing:
            await self.refresh()
            if name in self._by_name:
                raise ConflictError(
                    f"There is a token '{name}' already.", hint="Choose another name, or PUT it."
                )
            record = self._made(name, details)
            await self._write([record])
            return record

    async def change(self, ref: str, change: Change) -> TokenRecord:
        """Put what ``change`` makes of a token in its place.

        Raises:
            NotFoundError: There is no such token.
            ConflictError: It would be the administrator's, or get the name of another one.
        """
        async with self._changing:
            await self.refresh()
            before = self._changeable(ref)
            after = change(before)
            renamed = after.name != before.name
            if renamed and after.name in self._by_name:
                raise ConflictError(f"There is a token '{after.name}' already.")
            details = structs.replace(after.details, updated_at_ms=self._clock.now_ms())
            record = structs.replace(after, details=details)
            await self._write([record], gone=[before.name] if renamed else [])
            return record

    async def renew(self, ref: str) -> TokenRecord:
        """Give a token a new secret; the old one is void at once here, elsewhere in a second."""

        def renewed(record: TokenRecord) -> TokenRecord:
            secret = self._made(record.name, record.details, id_=record.id)
            return structs.replace(record, sealed=secret.sealed, digest=secret.digest)

        return await self.change(ref, renewed)

    async def remove(self, ref: str) -> None:
        """Forget a token.

        Raises:
            NotFoundError: There is no such token.
            ConflictError: It is the administrator's.
        """
        async with self._changing:
            await self.refresh()
            await self._write([], gone=[self._changeable(ref).name])

    async def apply_workspace(self, workspace: Workspace) -> TokenChanges:
        """Make the tokens that datafiles name, and bring their scopes up to date.

        Called after every release; writes only where something differs.
        """
        wanted = {n: t for n, t in file_tokens(workspace).items() if not is_reserved(n)}
        async with self._changing:
            await self.refresh()
            changed = changed_by_files(self._by_name.values(), wanted)
            created = [
                self._from_file(name, token)
                for name, token in wanted.items()
                if name not in self._by_name
            ]
            if created or changed:
                await self._write([*created, *changed])
        names = TokenChanges(
            created=tuple(r.name for r in created), changed=tuple(r.name for r in changed)
        )
        if created or changed:
            _log.info("tokens_changed", created=names.created, changed=names.changed)
        return names

    def _from_file(self, name: str, token: FileToken) -> TokenRecord:
        return self._made(name, Details(file_scopes=token.scopes, origin=token.origin))

    def _made(self, name: str, details: Details, id_: str | None = None) -> TokenRecord:
        token, id_ = new_token(), id_ or str(uuid.uuid4())
        now_ms = self._clock.now_ms()
        return TokenRecord(
            id=id_,
            name=name,
            digest=self._cipher.digest(token.encode()),
            sealed=self._cipher.encrypt(token, id_),
            details=structs.replace(details, created_at_ms=now_ms, updated_at_ms=now_ms),
        )

    def _changeable(self, ref: str) -> TokenRecord:
        record = self.find(ref)
        if record.id == self.admin.id:
            raise ConflictError(
                "The administrator's token is a setting.", hint="Change PIPEHOUSE_ADMIN_TOKEN."
            )
        return record

    async def _write(self, records: Sequence[TokenRecord], gone: Sequence[str] = ()) -> None:
        # Higher than any version seen, also where the clocks of processes differ.
        version = max(self._version + 1, self._clock.now_ms() * 1000)
        try:
            await self._table.write(records, gone, version)
        except InsertFailureError as error:
            if error.clickhouse_code not in _MAY_NOT_WRITE:
                raise
            raise TokensReadOnlyError(
                "This process can read tokens and not change them.",
                hint="Ask one whose ClickHouse user may write, for instance `pipehouse serve`.",
            ) from error
        kept = {n: r for n, r in self._by_name.items() if n not in gone}
        self._take({**kept, **{record.name: record for record in records}})
        self._version = version

    # Keeping up --------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Take over what other processes have changed.

        Raises:
            UnavailableError: ClickHouse does not answer; what was known stays.
        """
        if await self._table.stamp() == self._stamp:
            return
        loaded = await self._table.load()
        # A replica may be behind what was written here; only a table that was emptied goes back.
        if loaded.version >= self._version or not loaded.version:
            self.take(loaded)

    def take(self, loaded: Loaded) -> None:
        """Know these tokens and no others."""
        self._take({record.name: record for record in loaded.records})
        self._stamp = loaded.stamp
        self._version = loaded.version
        if loaded.foreign and loaded.foreign != self._foreign:
            _log.error(
                "tokens_unreadable",
                names=loaded.foreign,
                hint="Another process has another PIPEHOUSE_SECRET.",
            )
        self._foreign = loaded.foreign

    def _take(self, by_name: dict[str, TokenRecord]) -> None:
        self._by_name = by_name
        self._lookup.replace(by_name.values())

    async def watch(self, interval_s: float = REFRESH_INTERVAL_S) -> None:
        """Keep up with other processes until cancelled; an outage is waited out."""
        is_well = True
        while True:
            await asyncio.sleep(interval_s)
            try:
                async with self._changing:
                    await self.refresh()
            except (UnavailableError, QueryError) as error:
                if is_well:
                    _log.warning("tokens_not_refreshed", error=str(error), code=error.code)
                is_well = False
            else:
                is_well = True
