"""Google Drive answers for a large file with a page that asks for confirmation; this finds the way past it."""

from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

from ..errors import WeightError

HOSTS = ("drive.google.com", "drive.usercontent.google.com", "docs.google.com")


def is_drive(url: str) -> bool:
    """Whether an address is Google Drive's."""
    return urlsplit(url).hostname in HOSTS


def confirmed_url(page: str, page_url: str) -> str:
    """The address behind the page's button "Download anyway".

    Args:
        page: The page, HTML.
        page_url: Where it came from.

    Raises:
        WeightError: If the page has no such button (the file is private, gone, or over its quota), or it leads away
            from Google Drive.
    """
    form = _Form()
    form.feed(page)
    if not form.action:
        raise WeightError(
            "Google Drive sent a page without a download button (the file is private, gone, or was downloaded too "
            "often today): open the address in a browser, and use zoo import on the file"
        )
    address = urljoin(page_url, form.action)
    if not is_drive(address):
        raise WeightError(f"the page's download button leads to {urlsplit(address).hostname}, not to Google Drive")
    return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(form.fields)}" if form.fields else address


class _Form(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action, self.fields, self._inside = "", {}, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and "download" in given.get("id", "") + given.get("action", ""):
            self.action, self._inside = given.get("action", ""), True
        elif tag == "input" and self._inside and given.get("type") == "hidden" and given.get("name"):
            self.fields[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False
