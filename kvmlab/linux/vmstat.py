"""/proc/vmstat: a fold over the records of a kernel's memory management."""

from collections import Counter

from kvmlab.linux.records import Deactivated, KswapdWoken, Scan, VmEvent


class VmStat:
    """Counts what comes through the tap; ``count`` says the fields by the kernel's names."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, record: object) -> None:
        """Take one record; those of other parties are passed over."""
        if isinstance(record, VmEvent):
            self._counts[record.item] += record.count
        elif isinstance(record, Scan):
            for item, pages in (("pgscan", record.scanned), ("pgsteal", record.reclaimed)):
                self._counts[f"{item}_{record.by}"] += pages
                self._counts[f"{item}_{record.lru}"] += pages
            self._counts["pgactivate"] += record.activated
        elif isinstance(record, Deactivated):
            self._counts["pgdeactivate"] += record.count
            self._counts["pgrefill"] += record.count
        elif isinstance(record, KswapdWoken):
            self._counts["pageoutrun"] += 1

    def __getitem__(self, item: str) -> int:
        return self._counts[item]

    def fields(self) -> dict[str, int]:
        """Every field that is not zero, by name."""
        return {name: count for name, count in sorted(self._counts.items()) if count}
