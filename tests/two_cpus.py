"""A machine of two CPUs on which both run threads of one process, for tests of several rooms."""

from kvmlab.hardware.records import OnCpu, VmExit
from kvmlab.kvm.policy import POLICIES
from kvmlab.kvm.statistics import Statistics
from kvmlab.machine import Machine

AREA = 0x1000_0000
SHADOW = tuple(("shadow", one.name) for one in POLICIES)
VIRTUAL = (("ept", "naive"), *SHADOW)
DESIGNS = (("native", "naive"), *VIRTUAL)


class TwoCpus:
    """``process`` runs on both; ``records`` and ``statistics`` hear everything."""

    def __init__(self, mmu="ept", policy="naive", **options):
        self.records, self.statistics = [], Statistics()
        options = {"guest_memory": "16M", "host_memory": "64M", "vcpus": 2} | options
        self.machine = Machine(mmu, policy=policy, tap=self._tap, **options)
        self.guest = self.machine.guest
        self.process = self.guest.spawn("demo")
        self.process.mmap(AREA, "1M")
        for cpu in range(2):
            self.run(cpu, self.guest.switch, self.process)

    def _tap(self, record):
        self.records.append(record)
        self.statistics(record)

    def run(self, cpu, deed, *arguments):
        with self.guest.on(cpu):
            return deed(*arguments)

    def load(self, cpu, gva=AREA):
        return self.run(cpu, self.guest.load, gva)

    def store(self, cpu, value, gva=AREA):
        self.run(cpu, self.guest.store, gva, value)

    def counted(self, deed):
        """What each of KVM's counters grows by while ``deed`` runs."""
        before = self.statistics.values()
        deed()
        after = self.statistics.values()
        return {name: after[name] - before[name] for name in after if after[name] != before[name]}

    def exits(self, deed):
        """The names of the exit reasons of each CPU while ``deed`` runs."""
        del self.records[:]
        deed()
        found, now = ([], []), self.guest.cpu.number
        for one in self.records:
            if isinstance(one, OnCpu):
                now = one.cpu
            elif isinstance(one, VmExit):
                found[now].append(one.reason.name)
        return found


def check_tlbs(machine):
    """Every translation cached for what a CPU runs is what the tables say now."""
    for number, cpu in enumerate(machine.cpus):
        with machine.guest.on(number):
            for entry in cpu.tlb.entries():
                gva = entry.vpn << entry.shift
                if gva < machine.guest.user_end and entry.tag == cpu.context.tag:
                    assert machine.chain(gva).hpa == entry.page, (number, hex(gva))
