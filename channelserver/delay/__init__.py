"""Messages that are sent later (Channels 1: ``channels.delay``). A Django application: ``"channelserver.delay"``.

They wait in the database. The running server sends those that are due: :mod:`channelserver.delay.timer`, in the reactor
thread, knows when to look; :mod:`channelserver.delay.consumers`, in a worker thread, looks.
"""
