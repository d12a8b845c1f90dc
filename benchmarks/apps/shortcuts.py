"""Our Django shortcuts in other servers' processes, so that servers can be compared like for like."""

from channelserver.workers import django_cleanup


def install() -> None:
    """Install them; call after ``django.setup()``.

    :raises RuntimeError: some cannot be installed, so that the comparison would not be fair.
    """
    left_out = django_cleanup.install()
    if left_out:
        raise RuntimeError(f"Django shortcuts are left out: {', '.join(left_out)}; this Django is not supported")
