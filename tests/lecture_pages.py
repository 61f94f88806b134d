"""An exported page read without a browser: a second statement of what its script does."""

import base64
import json
import re
import zlib
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "img"}


class Page(HTMLParser):
    """The open elements, which must close in order, and every attribute."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    """The page, all its elements closed."""
    page = Page()
    page.feed(text)
    assert page.open == []
    return page


def unpacked(text):
    """The data of a page: its labels, lists and variants."""
    packed = re.search(r'id="kvmlab-data">([^<]*)<', text)[1]
    texts, data = json.loads(zlib.decompress(base64.b64decode(packed)))
    data = whole(data, texts)
    for variant in data["variants"]:
        variant["scene"]["svg"] = "".join(variant["scene"]["svg"])
    return data


def whole(data, texts):
    if isinstance(data, int):
        return texts[data] if data >= 0 else -1 - data
    if isinstance(data, list):
        return [whole(one, texts) for one in data]
    return {key: whole(one, texts) for key, one in data.items()} if data else data
