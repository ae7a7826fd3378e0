"""The look of our HTML pages, which need no other file: one style, and texts of people that cannot control the page."""

from importlib import resources

from bundle.messages import printable


def read_style() -> str:
    """Read the style sheet of all pages: light and dark, phone and print."""
    return resources.files("bundle").joinpath("page.css").read_text(encoding="utf-8")


def printable_value(value: object) -> object:
    """Escape control characters in what a template prints; finished HTML (an object with __html__) stays as it is."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
