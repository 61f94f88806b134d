"""A table of a figure as HTML, in the colours of JupyterLab's theme."""

from html import escape

from kvmlab.figures.scene import Table

STYLE = """<style>
.kvm-modes { --kvm-ink: var(--jp-ui-font-color1, #1f1f1f);
  --kvm-rule: var(--jp-border-color1, #bdbdbd); --kvm-quiet: var(--jp-ui-font-color2, #5f5f5f) }
.kvm-modes .widget-html-content { color: var(--kvm-ink); font-size: 14px; line-height: 20px;
  height: auto; white-space: normal }
.kvm-modes p { margin: 0 }
.kvm-modes-table { overflow-x: auto }
.kvm-modes table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
.kvm-modes caption { caption-side: bottom; text-align: left; color: var(--kvm-quiet);
  font-size: 13px; padding-top: 8px }
.kvm-modes th, .kvm-modes td { padding: 2px 8px; text-align: right; font-weight: 400;
  border-top: 1px solid var(--kvm-rule) }
.kvm-modes thead th { font-weight: 600; border-top: none;
  width: min(18%, 72% / var(--kvm-designs)) }
.kvm-modes td { white-space: nowrap }
.kvm-modes thead th:first-child { width: auto }
.kvm-modes th:first-child { text-align: left; padding-left: 0 }
</style>"""


def table_html(table: Table) -> str:
    """``table`` as HTML: a caption, a header for each column and one for each row.

    A table that is too wide for its page scrolls sideways, and the page does not.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>"
    style = f"--kvm-designs: {len(table.columns) - 1}"
    inside = f"{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="kvm-modes-table"><table style="{style}">{inside}</table></div>'
