from channelserver.jobs import job
from channelserver.jobs.compat import task


@task
def fails():
    raise ArithmeticError("a job\nwith two lines")


@task
@job(retries=1, backoff=0.1)
async def fails_twice():
    raise EOFError("a coroutine's job")
