"""A real browser without a window, driven over a pair of pipes by its own debugging protocol."""

from __future__ import annotations

import base64
import json
import os
import selectors
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
)
_TIMEOUT_S = 20.0


def find_browser() -> str | None:
    """The path of an installed browser, None where there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page.

    Args:
        program: The browser.
        profile: A new folder for its profile.
    """

    def __init__(
        self, program: str, profile: Path, *, width: int = 1280, height: int = 900
    ) -> None:
        self._next_id = 0
        self._session = ""
        self._unread = b""
        self.problems: list[str] = []
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        os.set_inheritable(to_browser, True)
        os.set_inheritable(from_browser, True)
        flags = [*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        # The browser reads commands at descriptor 3 and writes answers to 4.
        script = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *flags, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read, selectors.EVENT_READ)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and everything it started."""
        try:
            self._session = ""
            self.call("Browser.close")
            self._process.wait(_TIMEOUT_S)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, 9)
                self._process.wait()
            self._selector.close()
            os.close(self._read)
            os.close(self._write)

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """One command of the protocol and its answer."""
        self._next_id += 1
        command = {"id": self._next_id, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            message = self._message(deadline_s)
            if message.get("id") == self._next_id:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _message(self, deadline_s: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            if not self._selector.select(max(0.0, deadline_s - time.monotonic())):
                pytest.fail(f"The browser did not answer within {_TIMEOUT_S:g} s.")
            self._unread += os.read(self._read, 1 << 20)
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what the page complains about."""
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The value of an expression as soon as it is true."""
        started_s = time.monotonic()
        while not (value := self.ask(expression)):
            if time.monotonic() - started_s > _TIMEOUT_S:
                pytest.fail(f"Never true: {expression}; {self.ask('document.body.innerText')}")
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        """A key on the keyboard."""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text: str) -> None:
        """Text into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """The page as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))
