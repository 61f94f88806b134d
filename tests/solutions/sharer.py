"""A solution of the task ``sharer``."""


def share(pages):
    """The first page of equal contents stands for all of them."""
    first = {}
    return [first.setdefault(page, number) for number, page in enumerate(pages)]
