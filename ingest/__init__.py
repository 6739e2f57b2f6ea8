"""Events in, rows out; the files are best read in the order of this list.

- ``chunk.py``: the values: Chunk, Decoded, Rejection
- ``decode.py``: record values to rows ready to insert, and rejections with every reason
- ``batch.py``: decoded chunks to contiguous batches of one partition
- ``delivery.py``: the delivery protocol: events in, actions out, nothing else
- ``pipeline.py``: acts: source, decode, batch, delivery, insert, commit
- ``log/``, ``source/``: where records come from; the embedded log for one machine
- ``http/``: the Events API, which only appends to the log
"""
