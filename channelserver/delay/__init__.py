"""Delayed messages (Channels 1: ``channels.delay``). A Django application: ``"channelserver.delay"``.

They wait in the database until the server sends them: :mod:`channelserver.delay.timer`, in the reactor thread,
schedules looks into the table; :mod:`channelserver.delay.consumers`, in a worker thread, sends what is due.
"""
