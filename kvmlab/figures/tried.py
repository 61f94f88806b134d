"""What one access to built tables came to, in words: the outcome, its causes, the error code."""

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.scene import Table
from kvmlab.figures.tree import rights_text
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.formats import Tables
from kvmlab.hardware.records import Verdict
from kvmlab.study.tree import Entry
from kvmlab.study.tried import CODE_BITS, Cause, Tried
from kvmlab.text import count, say


def category(tried: Tried) -> str:
    """How an access ended, as a choice of the first question."""
    if tried.fault is None:
        return {"emulated": "mapped"}.get(tried.end, tried.end)
    if tried.fault.error_code & dict(CODE_BITS)["RSVD"]:
        return "reserved"
    return "rights" if tried.fault.error_code & dict(CODE_BITS)["P"] else "absent"


def outcome_sentence(tried: Tried, tables: Tables) -> str:
    """What the access came to, and because of which bits."""
    ending = category(tried)
    key = "arrives" if tried.stale and ending == "mapped" else ending
    said = say(f"tables.outcome.{key}", gva=hex_text(tried.gva), why=tried.why)
    if tried.stale:
        said += " " + say("tables.outcome.stale")
    elif tried.hit:
        said += " " + say("tables.outcome.hit")
    return f"{said} {because(tried, tables)}".strip()


def because(tried: Tried, tables: Tables) -> str:
    """Every reason of a refusal, or what all levels together allow."""
    if tried.causes:
        return " ".join(_cause(one, tried) for one in tried.causes)
    if not tried.path or tried.says != "mapped":
        return ""
    parts = [_entry_rights(tables, step.level, step.entry) for step in tried.path]
    return say("tables.together", parts=" AND ".join(parts))


def _entry_rights(tables: Tables, level: int, value: int) -> str:
    entry = Entry(level, 0, 0, 0, value, Verdict.LEAF, 0, 0)
    return f"L{level} {rights_text(tables, entry)}"


def _cause(cause: Cause, tried: Tried) -> str:
    """One reason, with the entry and the bits that say so."""
    name = LEVEL_NAMES[cause.level] if cause.level else ""
    value = next((one.entry for one in tried.path if one.level == cause.level), 0)
    bits = ", ".join(map(str, cause.bits))
    key = str(value >> 59 & 15)
    missing = "absent.nowhere" if cause.why == "absent" and not cause.bits else cause.why
    return say(
        f"tables.cause.{missing}",
        level=cause.level,
        name=name,
        bits=bits,
        value=hex_text(value),
        key=key,
    )


def end_sentence(tried: Tried) -> str:
    """What the machine did besides: A and D set, VM exits taken."""
    parts = []
    if tried.hpa is not None:
        parts.append(say("tables.end.hpa", hpa=hex_text(tried.hpa)))
    own = [one for one in tried.marked if one.table != "ept"]
    parts.append(count("tables.end.marked", len(own)))
    parts.append(count("tables.exits", len(tried.exits)))
    reasons = ", ".join(sorted({say(f"outcome.{one.reason.name.lower()}") for one in tried.exits}))
    if reasons:
        parts[-1] += f" ({reasons})"
    return " ".join(f"{one}." if not one.endswith((".", "。")) else one for one in parts)


def code_text(code: int) -> str:
    """The names of the bits that are set in an error code; a dash for none."""
    return " + ".join(name for name, bit in CODE_BITS if code & bit) or "–"


def code_table(code: int) -> Table:
    """Each bit of an error code, and what it says as it is."""
    rows = [
        [str(bit.bit_length() - 1), name, str(int(bool(code & bit))), _meaning(name, code & bit)]
        for name, bit in CODE_BITS
    ]
    columns = [say(f"walk.entry.{one}") for one in ("bits", "field", "value", "meaning")]
    return Table(say("tables.code.caption", code=hex_text(code)), columns, rows)


def _meaning(name: str, value: int) -> str:
    return say(f"tables.code.{name}.{'set' if value else 'clear'}")
