"""`labs.progress()` in JupyterLab: one button gives the file, an upload brings it back."""

import json

CELL = "from kvmlab import labs\nlab = labs.ask('ept.references')\nlab"
PANEL = "panel = labs.progress()\npanel"
DESK = ".kvmlab-progress .kvm-modes"


def test_what_was_answered_is_downloaded_and_merged(open_notebook, tmp_path):
    lab = open_notebook("%cd -q " + str(tmp_path) + "\n" + CELL, PANEL)
    lab.run_all()
    page = lab.page
    page.on("filechooser", lambda _: None)  # from now on: a page that is asked late opens its own
    page.wait_for_selector(".kvm-keep")
    field = page.get_by_label("Answer", exact=True)
    field.fill("23")
    field.press("Enter")
    lab.until(lambda: "Not 23 references" in lab.seen(".kvmlab-ask .kvmlab-status"))
    button = page.get_by_role("button", name="Save and download", exact=True)
    button.focus()
    with page.expect_download(timeout=15_000) as waiting:
        page.keyboard.press("Enter")
    assert waiting.value.suggested_filename == "kvmlab-progress.json"
    waiting.value.save_as(tmp_path / "taken.json")
    taken = json.loads((tmp_path / "taken.json").read_text(encoding="utf-8"))
    kept = (tmp_path / "kvmlab-progress.json").read_text(encoding="utf-8")
    assert json.loads(kept) == taken
    assert [one["answer"] for one in taken["answers"]] == ["23"]
    lab.until(lambda: "0 of 1 questions" in lab.seen(DESK))
    taken["answers"][0]["id"] = "tlb.hits-1-7@v1"
    more = json.dumps(taken).encode()
    page.get_by_role("button", name="Merge a file").focus()
    with page.expect_file_chooser(timeout=15_000) as chooser:
        page.keyboard.press("Enter")
    file = {"name": "more.json", "mimeType": "application/json", "buffer": more}
    chooser.value.set_files(file)
    lab.until(lambda: "1 new answers were taken over from more.json" in lab.seen(DESK))
    lab.until(lambda: "tlb.hits" in lab.seen(DESK))
    lab.axe(".kvmlab-progress")
    lab.shot("progress-light", ".kvmlab-progress")
    lab.theme("Dark")
    page.locator(".kvmlab-progress select").select_option(index=1)
    lab.until(lambda: "2 道题中答对了 0 道" in lab.seen(DESK))
    lab.axe(".kvmlab-progress")
    lab.shot("progress-dark", ".kvmlab-progress")
