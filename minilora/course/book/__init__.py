"""The book: the course and its API as static pages, from the notebooks as they were executed.

Text is CommonMark, formulas are native MathML, code is coloured when the page is made. A page asks
nothing of the network, and without scripts it lacks only the search.
"""

from minilora.course.book.build import build_book, make_pages
from minilora.course.book.faults import page_faults

__all__ = ["build_book", "make_pages", "page_faults"]
