from django.core.cache.backends.locmem import LocMemCache

closed = []


class Cache(LocMemCache):
    def __init__(self, *args, **kwargs):
        super().__init__("closing", {})

    def close(self, **kwargs):
        closed.append(1)
