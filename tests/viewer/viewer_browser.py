"""A headless Chromium, driven through pipes by the protocol of its developer tools.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


class Browser:
    """A browser with one page.

    Args:
        profile: folder for its profile.
        width, height: size of the window in pixels.

    Attributes:
        messages: what was written to the console, and what else went wrong.
    """

    def __init__(self, profile: Path, width: int = 1280, height: int = 800) -> None:
        program = next((path for name in NAMES if (path := shutil.which(name))), None)
        if program is None:
            pytest.skip(f"no browser on this machine ({', '.join(NAMES)})")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # the protocol is on the descriptors 3 and 4
        shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        options = ("--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe")
        self._process = subprocess.Popen(
            ["bash", "-c", shell, program, *options, *SOFTWARE_GL, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest, self._number, self._session = b"", 0, ""
        self.messages: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol, and wait for its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._out, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression in the page is true."""
        self.run(
            "new Promise((done, failed) => { let tries = 600; const look = () => {"
            f" let met = false; try {{ met = {condition}; }} catch {{ }}"
            " if (met) done(); else if (--tries) setTimeout(look, 100);"
            " else failed(new Error('waited in vain')); }; look(); })"
        )

    def picture(self) -> np.ndarray:
        """(rows, columns, 3) colours of the window, 0 to 255."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        pixels = matplotlib.image.imread(io.BytesIO(png), format="png")
        return (pixels[..., :3] * 255).round().astype(int)

    def press(self, key: str) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        if message.get("method") == "Runtime.consoleAPICalled":
            self.messages.append(f"{told['type']}: {told['args']}")
        if message.get("method") == "Runtime.exceptionThrown":
            self.messages.append(f"exception: {told['exceptionDetails']}")
        if message.get("method") == "Log.entryAdded":
            self.messages.append(f"{told['entry']['level']}: {told['entry']}")
