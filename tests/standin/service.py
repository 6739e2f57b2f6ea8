"""What connections need of the server around them."""

from __future__ import annotations

from msgspec import Struct

from tests.standin.answer import Watch
from tests.standin.engine import Engine
from tests.standin.faults import Faults
from tests.standin.running import Query
from tests.standin.text import first_word
from tests.standin.users import User, Users


class Service(Struct, frozen=True, kw_only=True):
    """What connections need of the server around them."""

    engine: Engine
    users: Users
    faults: Faults
    watch: Watch
    name: str
    version: tuple[int, int, int]

    def answering(self, query: Query, user: User) -> str:
        """The text to run for a statement with an answer; a KILL is carried out here."""
        if first_word(query.sql) == "KILL":
            everybody = user.grants is None or any(
                grant.privilege in ("ALL", "KILL QUERY") for grant in user.grants
            )
            return self.engine.kill(query.sql, query.user, everybody=everybody)
        return self.users.grants_sql(query.sql, query.user) or query.sql
