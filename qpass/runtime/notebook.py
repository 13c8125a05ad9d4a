"""How a notebook shows a result that is text."""

from __future__ import annotations

import html

from qpass.runtime.plain_data import printable


class ShownAsText:
    """Base class of results that a notebook shows as ``print`` does."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(printable(str(self)))}</pre>"
