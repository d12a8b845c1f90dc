"""A lock of a module that coroutines hold while they need threads, and that threads wait for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.process import Server, ServerTestCase, wait_until

FILES = {
    "urls.py": """
        import asyncio
        import threading

        from asgiref.sync import async_to_sync, sync_to_async
        from django.contrib.auth.models import User
        from django.db import connections
        from django.http import HttpResponse
        from django.urls import path

        lock = asyncio.Lock()
        waiting = 0

        async def take():
            async with lock:
                pass

        def waits(request):
            # Its connection is open meanwhile.
            global waiting
            before = User.objects.count()
            waiting += 1
            async_to_sync(take)()
            waiting -= 1
            return HttpResponse(str(before))

        async def holds(request):
            # Its first call makes it the guest of a thread, which then waits, too.
            await User.objects.acount()
            async with lock:
                while waiting < int(request.GET["threads"]):
                    await asyncio.sleep(0.001)
                threads = []
                for _ in range(10):
                    threads.append(await sync_to_async(lambda: threading.current_thread().name)())
                    await User.objects.acount()
                    await asyncio.sleep(0.01)
            return HttpResponse(" ".join(threads))

        async def held(request):
            return HttpResponse(str(lock.locked()))

        async def part_waits(request):
            await sync_to_async(waits)(request)
            return HttpResponse("0")

        def plain(request):
            return HttpResponse(threading.current_thread().name)

        def threads(request):
            names = [thread.name for thread in threading.enumerate()]
            return HttpResponse(" ".join(name for name in names if name.startswith("worker-")))

        urlpatterns = [
            path("waits/", waits), path("holds/", holds), path("held/", held), path("plain/", plain),
            path("threads/", threads), path("part-waits/", part_waits),
        ]
    """,
}


class LockTests(ServerTestCase):
    """As many plain views as there are threads, and more, wait for a lock whose holder needs threads."""

    files = FILES
    migrate = True

    def test_one_thread(self) -> None:
        """The thread whose guest the holder is, is the one that waits."""
        self._check(1, 1)

    def test_two_threads(self) -> None:
        """The same with two."""
        self._check(2, 2)

    def test_six_threads(self) -> None:
        """The same with six."""
        self._check(6, 6)

    def test_more_than_may_leave(self) -> None:
        """Nine wait where two threads may leave the pool: no more of them do, and the holder goes on."""
        server = self._check(1, 9, "--max-streams", "2")
        self.assertTrue(server.get("/plain/").text.startswith("worker-"))

    def test_parts_that_wait(self) -> None:
        """So many synchronous parts of coroutines wait that none of the threads which may leave is left."""
        self._check(1, 6, "--max-streams", "1", path="/part-waits/", until=6)

    def _check(self, threads: int, waiting: int, *arguments: str, path: str = "/waits/", until: int = 0) -> Server:
        server = self.start("--threads", str(threads), *arguments)
        with ThreadPoolExecutor(waiting + 1) as pool:
            holder = pool.submit(server.get, f"/holds/?threads={until or threads}")
            wait_until(lambda: server.get("/held/").text == "True", "the lock's holder")
            others = [pool.submit(server.get, path) for _ in range(waiting)]
            self.assertEqual({answer.result().text for answer in others}, {"0"})
            names = holder.result().text.split()
        self.assertEqual(len(names), 10)
        self.assertTrue(all(name.startswith("worker-") for name in names), names)

        def left() -> bool:
            return len(server.get("/threads/").text.split()) == threads

        wait_until(left, "the end of those that are too many")
        self.assertEqual(server.get("/-/health").json()["streams"], 0)
        return server
