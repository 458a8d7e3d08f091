"""What the gate said night after night, from the run directories.

`scan` reads the directories, `database` keeps what it found in SQLite, `trend` looks
for a change, `text` shows it. The directories are the truth: the database is a cache.
"""
