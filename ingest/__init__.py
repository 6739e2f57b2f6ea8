"""Events in, rows out; the files are best read in the order of this list.

- ``chunk.py``: the values: Chunk, Decoded, Rejection
- ``decode.py``: record values to rows ready to insert, and rejections with every reason
- ``batch.py``: decoded chunks to contiguous batches of one partition
- ``messages.py``: the values of the delivery protocol: commits, state, events, actions
- ``delivery.py``: the delivery protocol: events in, actions out, nothing else
- ``landing.py``: everything the protocol asks of ClickHouse
- ``intake.py``: collects the batches of a partition, and holds records back when it has enough
- ``partition.py``: acts for one partition: insert, quarantine, commit
- ``pipeline.py``: reads, decodes and feeds the partitions of one data source
- ``worker.py``: a pipeline for each data source that takes events
- ``log/``, ``source/``: where records come from; the embedded log for one machine
- ``http/``: the Events API, which only appends to the log
"""
