"""What ran when: columns of a run, and what is made of them.

    record.py       the record as its readers have it: plain data

Nothing here is loaded, and nothing is told, unless somebody asks for it. May import scheduling and what lies above it.
"""
