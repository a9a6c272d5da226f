"""A record as people look at it: one page in HTML that needs no network, and one picture.

    sections.py      what there is to see: titles, sentences and the marks of each chart; pure
    notes.py         machine, options, noise, void results: in words; pure
    charts.py        sections as charts of altair: for a page, for a picture
    document.py      the page, from page.html.jinja, page.css and page.js
    markdown.py      the tables that the documentation has; pure

The charts are altair's because one chart gives both the page and, by vl-convert, the picture; vl-convert brings all the
scripts too, so that neither needs a network. Each module imports only from those above it.
"""
