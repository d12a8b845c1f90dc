"""A trivial job."""

from channelserver.jobs.compat import task


@task
def nothing(number):
    """Return its argument."""
    return number
