"""A hook of MkDocs: links from a page to files outside of docs/ become plain text that names the file.

In the repository such links lead to tests and scripts; the built site does not contain these.
"""

import posixpath
import re

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s#]+)(?:#([\w-]+))?\)")


def on_page_markdown(markdown: str, page, **_) -> str:
    """The page's text without links that leave docs/."""

    def named(match: re.Match) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), match[2]))
        if path.startswith("docs/"):
            return match[0]
        place = f"`{path}::{match[3]}`" if match[3] else f"`{path}`"
        return place if match[1].strip("`") == path else f"{match[1]} ({place})"

    return LINK.sub(named, markdown)
