"""May this access use this mapping?  The answer, and the error code of a refusal.

Permissions are judged once, after the leaf, over the rights of all levels together (SDM,
"Determination of Access Rights"; "Page-Fault Exceptions").
"""

from kvmlab.hardware.processor import (
    CR0_WP,
    CR4_PAE,
    CR4_PKE,
    CR4_PKS,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    Controls,
)
from kvmlab.hardware.records import EXECUTE, USER, WRITE, Kind

PF_PRESENT, PF_WRITE, PF_USER, PF_RESERVED, PF_FETCH, PF_KEY = 1, 2, 4, 8, 16, 32


def allowed(
    controls: Controls, rights: int, kind: Kind, *, user: bool, implicit: bool = False
) -> bool:
    """Whether an access of ``kind`` may use a page with ``rights``; keys are `key_denies`.

    ``user``: made at CPL 3.  ``implicit``: the processor reads a descriptor table or the TSS,
    which is a supervisor access at any CPL and ignores EFLAGS.AC.
    """
    user_page = bool(rights & USER)
    if kind is Kind.FETCH:
        forbidden = user and not user_page
        forbidden |= user_page and not user and bool(controls.cr4 & CR4_SMEP)
        return bool(rights & EXECUTE) and not forbidden
    if user and not implicit:
        return user_page and (kind is Kind.READ or bool(rights & WRITE))
    if user_page and controls.cr4 & CR4_SMAP and not (controls.ac and not implicit):
        return False
    return kind is Kind.READ or bool(rights & WRITE) or not controls.cr0 & CR0_WP


def key_denies(controls: Controls, leaf: int, rights: int, kind: Kind, *, user: bool) -> bool:
    """Whether the protection key of ``leaf`` forbids a data access (SDM, "Protection Keys")."""
    user_page = bool(rights & USER)
    if not controls.cr4 & (CR4_PKE if user_page else CR4_PKS):
        return False
    if kind is Kind.FETCH or not controls.long_mode:
        return False
    pair = (controls.pkru if user_page else controls.pkrs) >> 2 * (leaf >> 59 & 15)
    write_disabled = pair & 2 and kind is Kind.WRITE and (user or controls.cr0 & CR0_WP)
    return bool(pair & 1 or write_disabled)


def error_code(
    controls: Controls,
    kind: Kind,
    *,
    user: bool,
    present: bool,
    reserved: bool = False,
    key: bool = False,
) -> int:
    """The #PF error code (SDM, "Page-Fault Exceptions").

    The I/D bit depends on the controls, not on the page.
    """
    code = PF_PRESENT if present else 0
    code |= PF_WRITE if kind is Kind.WRITE else 0
    code |= PF_USER if user else 0
    code |= PF_RESERVED if reserved else 0
    code |= PF_KEY if key else 0
    return code | (PF_FETCH if kind is Kind.FETCH and tells_fetches(controls) else 0)


def tells_fetches(controls: Controls) -> bool:
    """Whether error codes tell fetches from reads: with SMEP, or with PAE and NXE."""
    pae_nx = controls.cr4 & CR4_PAE and controls.efer & EFER_NXE
    return bool(controls.cr4 & CR4_SMEP or pae_nx)
