"""What a learner made, as a short line of text, and back.

The line is ``kvmlab1.LAB.BODY``: BODY is the plan of the lab as JSON, compressed, in the letters of
base64 that may stand in an address, with a check that a cut or altered line does not pass.  It
holds names, numbers and lists only: nothing in it is ever run.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping

from kvmlab.base.errors import BadChoice

Plan = Mapping[str, object]
"""What a lab shows and what was done in it: names to text, numbers and lists of these."""

HEAD = "kvmlab1"
LONGEST = 20_000  # characters of a share string
LARGEST = 200_000  # bytes of the plan in it
DEEPEST = 4  # lists and mappings in each other
CHECK = 4  # bytes of CRC-32 before the compressed plan


def share_string(lab: str, plan: Plan) -> str:
    """``plan`` of the lab called ``lab`` as one line; raises `BadChoice` if it is too long."""
    data = json.dumps(plan, separators=(",", ":"), sort_keys=True).encode()
    packed = zlib.compress(data, 9)
    check = zlib.crc32(packed).to_bytes(CHECK, "big")
    body = base64.urlsafe_b64encode(check + packed).decode().rstrip("=")
    line = f"{HEAD}.{lab}.{body}"
    if len(line) > LONGEST or len(data) > LARGEST:
        raise BadChoice(f"too much was done to share it: {len(line)} characters, limit {LONGEST}")
    return line


def read_share_string(text: str, lab: str) -> dict[str, object]:
    """The plan in ``text``; raises `BadChoice` unless it is a whole share string of ``lab``."""
    line = text.strip()
    if len(line) > LONGEST:
        raise BadChoice(f"a share string has at most {LONGEST} characters, this has {len(line)}")
    parts = line.split(".")
    if len(parts) != 3 or parts[0] != HEAD:
        raise BadChoice(f"a share string reads {HEAD}.{lab}.LETTERS, not {line[:40]!r}")
    if parts[1] != lab:
        raise BadChoice(f"this share string is of the lab {parts[1][:20]!r}, not of {lab!r}")
    plan = _unpacked(parts[2])
    if not isinstance(plan, dict) or _depth(plan) > DEEPEST:
        raise BadChoice("the share string holds no plan of a lab")
    return plan


def fitting(plan: Plan, beginning: Plan) -> dict[str, object]:
    """A copy of ``plan``; raises `BadChoice` unless it has the keys and types of ``beginning``."""
    if plan.keys() != beginning.keys():
        odd = ", ".join(sorted(map(str, plan.keys() ^ beginning.keys())))
        raise BadChoice(f"a plan of this lab does not fit: {odd:.80}")
    for key, usual in beginning.items():
        if type(plan[key]) is not type(usual):
            raise BadChoice(f"{key} must be {type(usual).__name__}, not {plan[key]!r:.60}")
    return dict(plan)


def _unpacked(body: str) -> object:
    """What was packed; a cut, altered or swollen body is refused."""
    damaged = "the share string is cut or altered: copy it once more, as a whole"
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadChoice(damaged) from None
    check, packed = raw[:CHECK], raw[CHECK:]
    if zlib.crc32(packed).to_bytes(CHECK, "big") != check:
        raise BadChoice(damaged)
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, LARGEST + 1)
        return json.loads(data) if len(data) <= LARGEST and stream.eof else None
    except (zlib.error, ValueError, RecursionError):
        raise BadChoice(damaged) from None


def _depth(value: object) -> int:
    """How many lists and mappings are in each other; counting stops beyond `DEEPEST`."""
    level: list[object] = [value]
    depth = 0
    while level and depth <= DEEPEST:
        inner = [one for one in level if isinstance(one, list | dict)]
        level = [part for one in inner for part in (one.values() if isinstance(one, dict) else one)]
        depth += bool(inner)
    return depth
