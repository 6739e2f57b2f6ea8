"""The documentation page in a real browser, on a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import Browser, find_browser
from tests.e2e.conftest import Server


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium is installed; the documentation page was not looked at")
    opened = Browser(program, tmp_path / "profile")
    yield opened
    opened.close()


def sign_in(browser: Browser, server: Server, token: str) -> None:
    browser.open(f"{server.url}/docs")
    browser.wait("document.readyState === 'complete' && !!document.getElementById('token')")
    browser.ask("document.getElementById('token').select()")
    browser.type(token)
    browser.ask("document.getElementById('token-form').requestSubmit()")


def choose(browser: Browser, name: str) -> None:
    browser.ask(f"document.querySelector('#list a[href=\"#/{name}\"]').click()")
    browser.wait(f"document.title.startsWith('{name}') && !!document.querySelector('form.try')")


def test_an_endpoint_is_found_tried_and_shown(five: Server, browser: Browser) -> None:
    five.store(
        "marketing_events",
        {
            "event_time": "2025-05-12 06:18:15",
            "channel": "<b>radio</b>",
            "campaign": "page",
            "user_id": "u",
            "event_type": "click",
        },
    )
    sign_in(browser, five, five.token)
    names = browser.wait("[...document.querySelectorAll('#list .name')].map((e) => e.innerText)")
    assert "total_events" in names
    choose(browser, "events_by_channel")
    curl = browser.ask("document.getElementById('curl').innerText")
    assert f"'{five.url}/v0/pipes/events_by_channel.json'" in curl
    browser.ask("document.querySelector('form.try').requestSubmit()")
    browser.wait("!!document.querySelector('#result tbody tr')")
    cells = browser.ask("[...document.querySelectorAll('#result td')].map((e) => e.innerText)")
    assert cells == ["<b>radio</b>", "1"]
    hints = browser.ask("[...document.querySelectorAll('#result .hint')].map((e) => e.innerText)")
    assert hints == ["1 row"]
    # What the page may not load or run is told here too.
    assert browser.problems == []


def test_parameters_reach_the_request_and_mistakes_are_shown(
    five: Server, browser: Browser
) -> None:
    sign_in(browser, five, five.token)
    browser.wait("document.querySelectorAll('#list a').length > 0")
    choose(browser, "get_popular_pages")
    browser.ask("document.getElementById('param-limit').focus()")
    browser.type("many")
    assert "limit=many" in browser.ask("document.getElementById('curl').innerText")
    browser.ask("document.querySelector('form.try').requestSubmit()")
    text = browser.wait("document.querySelector('#result .problem')?.innerText")
    assert "limit" in text
    assert "parameter_error" in text


def test_a_wrong_token_is_told_and_an_address_leads_to_its_endpoint(
    five: Server, browser: Browser
) -> None:
    sign_in(browser, five, "p.this-token-is-not-known")
    said = browser.wait("document.querySelector('#status.problem')?.innerText")
    assert "token" in said
    sign_in(browser, five, five.token)
    browser.wait("document.querySelectorAll('#list a').length > 0")
    # The token is kept for this tab: the address alone is enough now.
    browser.open(f"{five.url}/docs?again#/total_events")
    browser.wait("document.title.startsWith('total_events') && !!document.querySelector('.try')")
    types = browser.ask("[...document.querySelectorAll('main td')].map((e) => e.innerText)")
    assert types == ["UInt64"]


def test_the_page_loads_nothing_from_anywhere_else(five: Server) -> None:
    page = five.client.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("docs.js", "docs.css", "icon.svg"):
        part = five.client.get(f"/docs/{name}")
        assert part.status_code == 200
        # The name of the image format is no address that anybody loads.
        text = part.text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, name
        assert "https:" not in text, name
    assert "https:" not in page.text
    assert five.token not in json.dumps(page.text)
