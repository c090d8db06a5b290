"""Service `worker`: Celery tasks that capture, align and fuse a corpus shard by shard."""
