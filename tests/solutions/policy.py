"""A solution of the task ``policy``."""


def policy(host, guests):
    """Take what is missing from unused memory, in proportion to it."""
    need = host.total // 5 - host.available
    spare = {one.name: max(0, one.current - max(one.used, one.minimum)) for one in guests}
    whole = sum(spare.values())
    if need <= 0 or not whole:
        return {}
    part = min(1, need / whole)
    return {
        one.name: one.current - int(spare[one.name] * part) for one in guests if spare[one.name]
    }
