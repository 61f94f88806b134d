"""A notebook open in a real browser: how tests act on it, wait for it and look at it."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CALLED_OFF = "net::ERR_ABORTED"  # by the page itself: Lab reloads once when it resets its workspace
READY = """() => {
  const context = window.jupyterapp?.shell?.currentWidget?.sessionContext
  const kernel = context?.session?.kernel
  const idle = kernel?.connectionStatus === 'connected' && kernel.status === 'idle'
  return Boolean(context?.isReady && idle)
}"""
"""The "idle" lamp lights before the session is ready, and a run-all then does nothing at all."""
RESTORED = """async () => {
  const { rendermime } = window.jupyterapp.shell.currentWidget.content
  const renderer = rendermime.createRenderer('application/vnd.jupyter.widget-view+json')
  const manager = await renderer._manager.promise
  return manager.restoredStatus && !manager._kernelRestoreInProgress
}"""
"""Whether ipywidgets has fetched the state of a kernel's widgets: when a notebook is opened, and
whenever the kernel is connected anew.  It puts that state over whatever came or was chosen
meanwhile: then a chart stays as it was, and a control goes back."""
CONTRAST = """element => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number)
  const luminance = colour => {
    const [r, g, b] = parts(colour).map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const style = getComputedStyle(element)
  const ink = luminance(element.namespaceURI.endsWith('svg') ? style.fill : style.color)
  let behind = element
  const clear = one => { const c = parts(getComputedStyle(one).backgroundColor); return c[3] === 0 }
  while (clear(behind)) behind = behind.parentElement
  const paper = luminance(getComputedStyle(behind).backgroundColor)
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)
}"""


@dataclass
class Opened:
    """A notebook open in the browser, and what went wrong on its page."""

    page: object
    shots: Path
    ask_axe: Callable[[object, str], None]
    trouble: list[str] = field(default_factory=list)

    def run_all(self) -> None:
        """Run every cell and wait until the kernel is idle again."""
        self.page.wait_for_function(READY, timeout=60_000)
        self.page.wait_for_function(RESTORED, timeout=60_000)
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.page.wait_for_function(READY, timeout=60_000)

    def theme(self, name: str) -> None:
        """Switch JupyterLab to its ``Light`` or ``Dark`` theme."""
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})",
            f"JupyterLab {name}",
        )
        light = "true" if name == "Light" else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")

    def shot(self, name: str, selector: str | None = None) -> None:
        """Save what is seen now, whole or one element, as ``name``.png."""
        path = self.shots / f"{name}.png"
        if selector:
            self.page.locator(selector).first.screenshot(path=path)
        else:
            self.page.screenshot(path=path)

    def until(self, check: Callable[[], bool]) -> None:
        """Wait until ``check`` holds; fail if it does not within 15 seconds.

        What a test asserts of a page at once must be there since what it waited for before: a lab
        sends its scene, then its charts, then its text, and each arrives when it arrives.
        """
        deadline = time.monotonic() + 15
        while not check():
            if time.monotonic() > deadline:
                pytest.fail(f"what was waited for did not come: {self._state()}")
            self.page.wait_for_timeout(50)

    def settle(self) -> None:
        """Wait until the kernel has nothing to do and the page has drawn what came of it."""
        self.page.wait_for_function(READY)
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => done()))")

    def _state(self) -> str:
        """What tells a message that was lost from a machine that is too busy."""
        self.shot("stuck")
        kernel = self.page.evaluate(f"() => ({READY})() ? 'idle' : 'busy'")
        told = self.page.locator("[role=alert]").all_inner_texts()
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        return f"kernel {kernel}, alerts {told}, trouble {self.trouble}, load {load}, stuck.png"

    def contrast(self, selector: str) -> float:
        """The WCAG contrast of an element's text or shape with what is behind it, 1 to 21."""
        found: float = self.page.locator(selector).first.evaluate(CONTRAST)
        return found

    def axe(self, selector: str = ".kvmlab-lab") -> None:
        """Fail if axe-core finds a serious or critical violation in the elements that match."""
        self.ask_axe(self.page, selector)

    def seen(self, selector: str) -> str:
        """The text of the first element that matches, white space folded."""
        return re.sub(r"\s+", " ", self.page.locator(selector).first.inner_text()).strip()


def slowed(page: object) -> object:
    """``page``, which has the Nth part of a processor where KVMLAB_SLOW says N."""
    rate = float(os.environ.get("KVMLAB_SLOW", "1"))
    if rate > 1:
        session = page.context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": rate})
    return page


def listen(lab: Opened) -> None:
    """Note every console error, exception, failed request and error status of a page."""
    page, note = lab.page, lab.trouble.append
    page.on("console", lambda m: note(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: note(f"exception: {error}"))
    page.on(
        "requestfailed",
        lambda r: None if r.failure == CALLED_OFF else note(f"failed: {r.url} {r.failure}"),
    )
    page.on("response", lambda r: note(f"status {r.status}: {r.url}") if r.status >= 400 else None)
