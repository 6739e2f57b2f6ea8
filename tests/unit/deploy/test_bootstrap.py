from __future__ import annotations

import re

from deploy.bootstrap import User
from deploy.commands.deploy import new_password
from shared.clickhouse.url import parse_url


def test_every_password_has_a_character_of_every_kind_and_survives_a_url() -> None:
    for _ in range(50):
        password = new_password()
        for kind in ("[a-z]", "[A-Z]", "[0-9]", "[^A-Za-z0-9]"):
            assert re.search(kind, password)
        url = User("writer", "shop_writer", password).url("h:9000?http_port=1", "shop")
        assert parse_url(url).password == password
