"""Chromium, driven over a pipe by its DevTools protocol: real clicks and keys, no library."""

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ENTER = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}


class Page:
    """A tab."""

    def __init__(self, write, read, downloads):
        self.pipe, self.answers, self.n, self.session = write, read, 0, None
        self.errors = []
        self.downloads = downloads
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")
        session, self.session = self.session, None
        self("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        self.session = session

    def __call__(self, method, **params):
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        self.pipe.write(json.dumps(message).encode() + b"\0")
        self.pipe.flush()
        while (answer := self.receive()).get("id") != self.n:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self):
        answer = b""
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "chromium ended"
            answer += byte
        answer = json.loads(answer)
        if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.errors.append(answer["params"])
        if answer.get("method") == "Page.javascriptDialogOpening":
            self.n += 1
            yes = {"id": self.n, "method": "Page.handleJavaScriptDialog"}
            yes |= {"params": {"accept": True}, "sessionId": self.session}
            self.pipe.write(json.dumps(yes).encode() + b"\0")
            self.pipe.flush()
        return answer

    def run(self, script):
        """Return what a script comes to."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition):
        """Wait until a condition holds in the page."""
        script = f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()"
        until = time.monotonic() + 60
        while not self.run(script):
            assert time.monotonic() < until, f"never: {condition}"
            time.sleep(0.01)

    def open(self, url):
        self.leave("Page.navigate", url=url)

    def reload(self):
        self.leave("Page.reload")

    def leave(self, method, **params):
        self.run("window.left = true")
        self(method, **params)
        self.wait("!window.left && document.readyState === 'complete'")

    def click(self, selector):
        x, y = self.run(
            f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center"}}); const b = e.getBoundingClientRect();
            return [b.x + b.width / 2, b.y + b.height / 2]; }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key):
        keys = ENTER if key == "Enter" else {"key": key, "text": key}
        self("Input.dispatchKeyEvent", type="keyDown", **keys)
        self(
            "Input.dispatchKeyEvent", type="keyUp", **{k: v for k, v in keys.items() if k != "text"}
        )

    def type(self, text):
        self("Input.insertText", text=text)

    def screenshot(self, path, width, height, dark=False):
        self(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(profile):
    """Yield a tab of a browser whose storage and downloads lie in a folder."""
    (profile / "downloads").mkdir(parents=True, exist_ok=True)
    to_read, write = os.pipe()
    read, to_write = os.pipe()
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    quoted = " ".join(f"'{part}'" for part in [*command, f"--user-data-dir={profile}/profile"])
    # The protocol's pipe has the descriptors 3 and 4.
    script = f"exec {quoted} 3<&{to_read} 4>&{to_write}"
    process = subprocess.Popen(
        ["bash", "-c", script],
        **{"pass_fds": (to_read, to_write), "stderr": subprocess.DEVNULL},
    )
    os.close(to_read)
    os.close(to_write)
    with os.fdopen(write, "wb") as out, os.fdopen(read, "rb") as answers:
        try:
            yield Page(out, answers, profile / "downloads")
        finally:
            process.terminate()
            process.wait(30)
