"""The engine against the live KVM: KVM_TRANSLATE, and accesses by a guest that runs.

Skipped, with the reason, where there is no KVM or it cannot do a mode; one access whose answer is
known tells.  200 cases each, ``--all`` takes 5,000, ``KVMLAB_KVM_CASES`` another number, and
``KVMLAB_KVM_SEED`` repeats the seed that a run prints.  A difference names its case, which
`tests.tables` makes again from the seed and the number in that name.

The engine has its default option, which is KVM's own way: a walk that faults changes nothing.  A
KVM that walks a running guest's tables by software (shadow paging) is known by MAXPHYADDR: it heeds
the 36 bits that CPUID is told.  Where silicon walks, each case gets the host's vendor and
MAXPHYADDR, and accessed bits after a fault are the silicon's own choice, so are not compared.
"""

import os
import random
import struct
from collections import Counter
from pathlib import Path

import pytest

from tests import kvm_guest, oracle_kvm, reference, tables
from tests.engine_under_test import ask
from tests.kvm_guest import TABLES, TABLES_END
from tests.oracle_kvm import Kvm, Unavailable
from tests.reference_entries import ACCESSED
from tests.tables_regular import regular_case

pytestmark = pytest.mark.sampled

SEED = int(os.environ.get("KVMLAB_KVM_SEED", random.SystemRandom().randrange(1 << 32)))
QUICK, WHOLE = 200, 5_000
WIDTHS = {"32bit": 32, "pae": 32, "4level": 48, "5level": 57}
VECTORS = {"ok": None, "#PF": 14, "#GP": 13}


@pytest.fixture(scope="module")
def kvm():
    try:
        with Kvm() as opened:
            yield opened
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def count(request):
    """How many cases are tried."""
    whole = request.config.getoption("--all") or os.environ.get("KVMLAB_ALL") == "1"
    return int(os.environ.get("KVMLAB_KVM_CASES", WHOLE if whole else QUICK))


# ----- what this KVM can do -----------------------------------------------------------------


def need_translation(kvm, mode):
    """Skip unless KVM_TRANSLATE finds a page that is mapped in this mode."""
    case = kvm.fitted(regular_case(mode, "4K"))
    wanted = ask(*reference.from_case(case))[0].gpa
    try:
        found, _ = kvm.translate(case)
    except OSError as error:
        pytest.skip(f"this KVM refuses {mode} paging: {error.strerror}")
    if found != wanted:
        what = "nothing" if found is None else f"{found:#x}"
        pytest.skip(f"this KVM does no {mode} paging: it finds {what}, not {wanted:#x}")


def need_run(kvm, cpl):
    """Skip unless a guest can read a page that is mapped."""
    case = regular_case("4level", "4K")
    case["access"]["cpl"] = cpl
    case = kvm.fitted(case)
    try:
        answer = kvm.run(case)
    except (OSError, RuntimeError) as error:
        pytest.skip(f"this KVM cannot run the guest at CPL {cpl}: {error}")
    assert answer.pa == ask(*reference.from_case(case))[0].gpa


def silicon_walks(kvm):
    """Whether bit 36 of a PTE is let pass though CPUID says that MAXPHYADDR is 36."""
    case = regular_case("4level", "4K")
    case["ctrl"]["maxphyaddr"] = 36
    case = kvm.fitted(case)
    case["mem"][3]["value"] = hex(reference.number(case["mem"][3]["value"]) | 1 << 36)
    return kvm.run(case).error != 0x9


# ----- both sides ---------------------------------------------------------------------------


def tables_of(engine):
    return engine.ram.read(TABLES, TABLES_END - TABLES)


def words(memory, mask=0):
    """The words of the tables' area that are not zero, without the bits of `mask`."""
    found = enumerate(struct.unpack(f"<{len(memory) // 8}Q", memory))
    return {hex(TABLES + 8 * n): hex(word & ~mask) for n, word in found if word}


def different(pairs):
    return {name: (mine, its) for name, (mine, its) in pairs.items() if mine != its}


def translation_differences(kvm, case):
    """The engine's result, and what it and KVM_TRANSLATE say differently: {name: (engine, KVM)}."""
    mine, engine = ask(*reference.from_case(case))
    address, memory = kvm.translate(case)
    pairs = {"pa": (mine.gpa, address), "tables": (words(tables_of(engine)), words(memory))}
    return mine.result, different(pairs)


def run_differences(kvm, case, mask):
    """The engine's result, and what it and the guest say differently: {name: (engine, guest)}."""
    mine, engine = ask(*reference.from_case(case))
    its = kvm.run(case)
    if mine.result == "ok":
        mask = 0
    pairs = {
        "pa": (mine.gpa, its.pa),
        "vector": (VECTORS[mine.result], its.vector),
        "error": (mine.error_code, its.error),
        "cr2": (mine.cr2, its.cr2),
        "tables": (words(tables_of(engine), mask), words(its.tables, mask)),
    }
    return mine.result, different(pairs)


def supervisor_read(case):
    """The access that KVM_TRANSLATE makes: it does not ask whether the address is canonical."""
    width = WIDTHS[case["mode"]]
    va = reference.number(case["access"]["va"]) & (1 << width) - 1
    if width > 32:
        va |= -(va >> width - 1) << width & (1 << 64) - 1
    ctrl = case["ctrl"] | {"rflags_ac": 0}
    return case | {"access": {"va": hex(va), "type": "read", "cpl": 0}, "ctrl": ctrl}


def hosts_own(kvm, case):
    """The case with the vendor and the MAXPHYADDR of the silicon."""
    return case | {"ctrl": case["ctrl"] | {"vendor": kvm.vendor, "maxphyaddr": kvm.maxphyaddr}}


def say(capsys, title, results):
    told = ", ".join(f"{number} {result}" for result, number in sorted(results.items()))
    with capsys.disabled():
        print(f"\nEngine and KVM, {title}: seed {SEED}, {results.total()} cases agree ({told})")


@pytest.mark.parametrize("mode", WIDTHS)
def test_engine_agrees_with_kvm_translate(kvm, capsys, count, mode):
    need_translation(kvm, mode)
    results = Counter()
    for random_case in tables.walk_cases(mode, SEED, count):
        case = kvm.fitted(supervisor_read(random_case))
        result, found = translation_differences(kvm, case)
        assert not found, f"{case['id']}: (engine, KVM) {found} in {case}"
        results[result] += 1
    say(capsys, f"KVM_TRANSLATE in {mode}", results)


@pytest.mark.parametrize("cpl", [0, 3])
def test_engine_agrees_with_a_running_guest(kvm, capsys, count, cpl):
    need_run(kvm, cpl)
    silicon = silicon_walks(kvm)
    results = Counter()
    for random_case in tables.walk_cases("4level", SEED, count):
        case = hosts_own(kvm, random_case) if silicon else random_case
        case["access"]["cpl"] = cpl
        case = kvm.fitted(case)
        result, found = run_differences(kvm, case, ACCESSED if silicon else 0)
        assert not found, f"{case['id']}: (engine, KVM) {found} in {case}"
        results[f"{case['access']['type']} {result}"] += 1
    who = "silicon" if silicon else "software"
    say(capsys, f"accesses at CPL {cpl}, walked by {who}", results)


# ----- refusals and bounds ------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, why", [("/dev/no-such-kvm", "No such file"), ("/dev/null", "Inappropriate ioctl")]
)
def test_missing_kvm_is_told(monkeypatch, path, why):
    monkeypatch.setattr(oracle_kvm, "DEVICE", path)
    with pytest.raises(Unavailable, match=f"^{path}: {why}"):
        Kvm()


def test_refused_case_leaves_no_descriptor_open(kvm):
    need_translation(kvm, "4level")
    case = kvm.fitted(regular_case("4level", "4K"))
    before = open_descriptors()
    with pytest.raises(OSError, match="Invalid argument"):
        kvm.translate(case | {"ctrl": case["ctrl"] | {"cr3": hex(1 << 63)}})
    assert open_descriptors() == before


@pytest.mark.parametrize("cpl", [0, 3])
def test_guest_that_never_exits_is_stopped(kvm, monkeypatch, cpl):
    need_run(kvm, cpl)
    case = regular_case("4level", "4K")
    case["access"]["cpl"] = cpl
    case, before, harness = kvm.fitted(case), open_descriptors(), kvm_guest.harness

    def endless(base):
        return harness(base).replace(kvm_guest.PROBES["read"], b"\xeb\xfe.")  # jmp to itself

    monkeypatch.setattr(kvm_guest, "harness", endless)
    monkeypatch.setattr(oracle_kvm, "SECONDS", 0.2)
    with pytest.raises(TimeoutError):
        kvm.run(case)
    assert open_descriptors() == before


def open_descriptors():
    return sorted(one.name for one in Path("/proc/self/fd").iterdir())
