"""The field's words, each in a sentence or two; and as HTML."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from kvmlab.text import LANGUAGES, catalogue, count, say, speaking

_HEAD, _TAIL = "glossary.", ".term"
STYLE = """<style>
.kvm-glossary { display: grid; grid-template-columns: minmax(8em, max-content) minmax(0, 44em);
  gap: 8px 24px; margin: 8px 0 0; font-size: 14px; line-height: 20px;
  color: var(--jp-ui-font-color1, #1f1f1f) }
.kvm-glossary dt { font-weight: 600; max-width: 16em }
.kvm-glossary dd { margin: 0 }
@media (max-width: 640px) { .kvm-glossary { grid-template-columns: minmax(0, 1fr); gap: 0 }
  .kvm-glossary dd { margin: 0 0 8px } }
</style>"""


@dataclass(frozen=True, slots=True)
class Term:
    """A term and what it means, in one language."""

    name: str
    term: str
    meaning: str

    def __str__(self) -> str:
        """Both, in a line."""
        return f"{self.term}: {self.meaning}"


def terms() -> list[Term]:
    """All terms in the language spoken, by their spelling."""
    found = [Term(name, say(f"{_HEAD}{name}{_TAIL}"), say(f"{_HEAD}{name}.is")) for name in names()]
    return sorted(found, key=_spelling)


def names() -> list[str]:
    """What the terms are called in the catalogue, in its order."""
    keys = (key for key in catalogue("en") if key.startswith(_HEAD) and key.endswith(_TAIL))
    return [key.removeprefix(_HEAD).removesuffix(_TAIL) for key in keys]


def _spelling(term: Term) -> str:
    return term.term.lstrip("#").casefold()


def matching(text: str) -> list[Term]:
    """The terms that have ``text`` in them or in their meaning; those that begin so come first."""
    wanted = text.strip().casefold()
    found = [one for one in terms() if wanted in f"{one.term} {one.meaning}".casefold()]

    def far(one: Term) -> tuple[bool, bool]:
        spelled = _spelling(one)
        return not spelled.startswith(wanted.lstrip("#")), wanted not in spelled

    return sorted(found, key=far) if wanted else found


def spellings() -> dict[str, str]:
    """Every way to write a term, in any language, to its name."""
    found: dict[str, str] = {}
    for language in LANGUAGES:
        with speaking(language):
            for one in terms():
                half = unicodedata.normalize("NFKC", one.term).casefold()  # brackets of Chinese
                parts = (part.strip() for part in re.split("[,、()]", half))
                ways = [one.term.casefold(), one.name, *filter(None, parts)]
                found |= dict.fromkeys(ways, one.name)
    return found


def glossary_html(chosen: Iterable[Term], text: str = "") -> str:
    """Terms as a list of definitions; ``text`` is what was looked for, if there are none."""
    chosen = list(chosen)
    if not chosen:
        return f'{STYLE}<p role="status">{escape(say("glossary.none", text=text[:40]))}</p>'
    rows = "".join(f"<dt>{escape(one.term)}</dt><dd>{escape(one.meaning)}</dd>" for one in chosen)
    number = escape(count("glossary.count", len(chosen)))
    return f'{STYLE}<p role="status">{number}</p><dl class="kvm-glossary">{rows}</dl>'
