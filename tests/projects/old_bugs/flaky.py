"""A layer whose queues fail when they are told to."""

from channelserver.layers import InMemoryChannelLayer

failures = 0


class FlakyLayer(InMemoryChannelLayer):
    def __init__(self, **parameters):
        super().__init__(**parameters)
        take = self.queues.take

        def fail_or_take(*arguments):
            global failures
            if failures:
                failures -= 1
                raise OSError("the queues have failed")
            return take(*arguments)

        self.queues.take = fail_or_take
