"""The solver: walks a graph from its keys to its results, and runs what no result is known for.

One thread, the caller's, owns all state and makes all decisions; threads of the pool do the work and post what came of
it. A vertex goes through two phases. Its key needs the keys of its inputs, the digests of what it reads of build
contexts, and (when the definition alone is not known yet) the results of the other inputs of which only the content
counts. Its result is asked for by a user of it that misses, by the caller, and at once where its key was never seen
before.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue

from stagewright.cache.keys import KeyStore
from stagewright.cache.locks import LockFile
from stagewright.errors import CanceledError
from stagewright.graph.ops import ExecOp, SourceOp
from stagewright.graph.vertex import Vertex
from stagewright.ops.base import OpRunner
from stagewright.ops.result import Result
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.records import replace
from stagewright.solver.keys import content_key, definition_key, is_context, is_named_only, resolved_key
from stagewright.solver.nodes import Node, Solved, blamed, build_nodes, located
from stagewright.solver.pool import Lane, Pool

_ADMISSION_INTERVAL_S = 0.025
# A step has begun by then, and its process works while this one explains.
_EXPLAIN_AFTER_S = 0.003
# A signal that comes just before a wait begins does not end it: its handler runs when the wait does.
_WAIT_AT_MOST_S = 0.5


class Solver:
    """Solves graphs. `cancel` stops the build when set, by the caller or by the first failure.

    `resolve` answers what a source means now that its op only names (`is_named_only`), as JSON-able data: its key is
    made of that. It is called from any thread. With `dry` keys are found as far as they can be, and nothing is run.
    """

    def __init__(
        self,
        runner_of: Callable[[Vertex], OpRunner],
        keys: KeyStore,
        locks: LockFile,
        emitter: Emitter,
        cancel: threading.Event,
        jobs: int | None = None,
        resolve: Callable[[Vertex, Reporter], object] | None = None,
        *,
        dry: bool = False,
    ) -> None:
        self._runner_of = runner_of
        self._resolve_source = resolve
        self._dry = dry
        self._keys = keys
        self._locks = locks
        self._emitter = emitter
        self._cancel = cancel
        self._pool = Pool(jobs)
        self._posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._pending = 0
        self._ready: deque[Node] = deque()
        self._used: list[str] = []
        self._unexplained: list[Node] = []
        self._admit_at = 0.0
        self._failure: BaseException | None = None
        self._nodes: dict[str, Node] = {}
        # Asked in the loop's thread why a vertex that runs was not in the cache.
        self.why_missed: Callable[[Node], str] | None = None
        # Told in the loop's thread, as soon as it is certain, that a vertex will run.
        self.on_missed: Callable[[Vertex], None] = lambda vertex: None

    @property
    def nodes(self) -> list[Node]:
        """The vertices of the graph with all that is known of them, inputs before their users."""
        return list(self._nodes.values())

    def solve(self, targets: Sequence[Vertex]) -> list[Result]:
        """The results of the targets, in their order. Raises the first failure after all running work has ended."""
        nodes = self._nodes = build_nodes(targets, self._runner_of, self._emitter)
        try:
            self._loop(nodes, targets)
        finally:
            self._pool.close()
            self._end_contexts(nodes.values())
            self._keys.touch(self._used)
        if self._failure is not None:
            raise self._failure
        self._end_unneeded(nodes.values())
        return [result for target in targets if (result := nodes[target.digest].result) is not None]

    def snapshots(self) -> list[tuple[Vertex, int]]:
        """The vertices of the solved graph that have a snapshot for their result, inputs before their users."""
        results = [(node.vertex, node.result or node.cached) for node in self._nodes.values()]
        return [(vertex, found.snapshot) for vertex, found in results if found and found.snapshot is not None]

    def solved(self) -> list[Solved]:
        """What became of the vertices of the solved graph, inputs before their users."""
        return [node.solved() for node in self._nodes.values()]

    # --- the loop -----------------------------------------------------------------------------------------------

    def _loop(self, nodes: Mapping[str, Node], targets: Sequence[Vertex]) -> None:
        self._guarded(None, lambda: self._begin(nodes, targets))
        while self._failure is None or self._pending:
            if self._failure is None and self._cancel.is_set():
                self._fail(CanceledError())
            while self._ready and self._failure is None:
                node = self._ready.popleft()
                self._guarded(node, partial(self._find_key, node))
            if not self._pending:
                return
            self._guarded(None, self._take_posted)

    def _guarded(self, node: Node | None, decide: Callable[[], None]) -> None:
        """What goes wrong in this thread ends the build as any failure does: only after all running work has ended."""
        try:
            decide()
        except BaseException as error:
            self._fail(located(node, error))

    def _begin(self, nodes: Mapping[str, Node], targets: Sequence[Vertex]) -> None:
        for target in targets:
            self._want(nodes[target.digest])
        for node in nodes.values():
            if is_context(node.vertex):
                node.reporter.start()
                node.result = node.runner.run(node.vertex, (), node.reporter)
        for node in nodes.values():
            contexts = [index for index in node.content_inputs if is_context(node.inputs[index].vertex)]
            if contexts:
                # The key of a context's reader waits for nothing else, so all of them are made at once.
                node.keys_missing += 1
                self._start_reading(node, contexts)
            if not node.keys_missing:
                self._ready.append(node)

    def _take_posted(self) -> None:
        wait_s = _WAIT_AT_MOST_S
        if self._pool.crowded:
            now = time.monotonic()
            if now >= self._admit_at:
                self._pool.admit_waiting_steps()
                self._admit_at = now + _ADMISSION_INTERVAL_S
            wait_s = self._admit_at - now
        try:
            handle = self._posted.get(timeout=min(wait_s, _EXPLAIN_AFTER_S) if self._unexplained else wait_s)
        except Empty:
            self._explain()
            return
        try:
            self._explain()
        finally:
            handle()

    def _explain(self) -> None:
        """Tell why what runs now missed the cache: while it runs, but before it is told how that ended."""
        while self._unexplained:
            node = self._unexplained.pop(0)
            assert self.why_missed is not None
            node.reporter.missed(self.why_missed(node))
            node.unexplained = False

    def _submit(self, lane: Lane, node: Node, work: Callable[[], Callable[[], None]]) -> None:
        """Run `work` in the pool; what it returns is called by the loop."""
        self._pending += 1

        def task() -> None:
            try:
                if self._cancel.is_set():
                    raise CanceledError
                handle = work()
            except BaseException as error:
                failure = located(node, error)
                self._posted.put(lambda: self._finish(lambda: self._fail(failure)))
            else:
                self._posted.put(lambda: self._finish(handle))

        self._pool.submit(lane, task)

    def _finish(self, handle: Callable[[], None]) -> None:
        self._pending -= 1
        handle()

    def _fail(self, error: BaseException) -> None:
        # What fails after the first failure, or because of it, is not the reason.
        if self._failure is None:
            self._failure = error
            self._cancel.set()
            self._pending -= self._pool.drop_waiting()

    # --- keys ---------------------------------------------------------------------------------------------------

    def _find_key(self, node: Node) -> None:
        vertex = node.vertex
        if is_context(vertex):
            node.canonical = vertex.digest
            self._key_found(node)
            return
        if node.definition is None and self._resolve_source is not None and is_named_only(vertex):
            self._resolve(node, self._resolve_source)
            return
        if not node.contents:
            node.definition = node.definition or definition_key(vertex, node.input_keys)
            if not vertex.meta.ignore_cache and self._look_up(node, node.definition):
                return
        if not node.content_inputs:
            self._new_canonical(node, node.definition)
            return
        unread = [index for index in node.content_inputs if index not in node.contents]
        if not unread:
            self._content_found(node)
            return
        node.waiting_for_content = True
        self._wait_for(node, [node.inputs[index] for index in unread])

    def _resolve(self, node: Node, resolve: Callable[[Vertex, Reporter], object]) -> None:
        """Have it found out what a source means now; then its key can be made."""

        def work() -> Callable[[], None]:
            node.reporter.start()
            with blamed(node):
                node.definition = resolved_key(resolve(node.vertex, node.reporter))
            return lambda: self._find_key(node)

        self._submit("source", node, work)

    def _start_reading(self, node: Node, contexts: list[int]) -> None:
        """Have the digests made of what a node reads of build contexts, whose vertices run meanwhile."""
        for index in contexts:
            node.inputs[index].readers_missing += 1

        def found() -> None:
            for index in contexts:
                context = node.inputs[index]
                context.readers_missing -= 1
                if not context.readers_missing:
                    context.reporter.end()
            self._key_of_input_found(node)

        self._digest_content(node, contexts, found)

    def _look_up(self, node: Node, key: str) -> bool:
        """Whether the key is known with a result; the node has its key then."""
        found = self._keys.lookup(key)
        if found is None:
            return False
        if found.result is None:
            # The work was done once and its result is gone: what was built on it may still be there.
            # By its definition alone it would be named after files that may come out otherwise when it is made again.
            if not node.content_inputs or key != node.definition:
                node.canonical = found.canonical
                self._key_found(node)
                return True
            return False
        node.canonical, node.cached = found.canonical, found.result
        exact = all(source.result is None or source.result.exact for source in node.inputs)
        if node.definition is not None and key != node.definition and exact:
            self._keys.link(node.definition, found.canonical)
        self._used.append(found.canonical)
        self._key_found(node)
        return True

    def _digest_content(self, node: Node, indexes: list[int], then: Callable[[], None]) -> None:
        def work() -> Callable[[], None]:
            for index in indexes:
                source = node.inputs[index].result
                assert source is not None
                with blamed(node):
                    node.contents[index] = node.runner.content_digest(node.vertex, index, source)
            return then

        self._submit("file", node, work)

    def _content_found(self, node: Node) -> None:
        key = content_key(node.vertex, node.input_keys, node.contents)
        if not node.vertex.meta.ignore_cache and self._look_up(node, key):
            return
        node.also_known_as.append(key)
        self._new_canonical(node, key)

    def _new_canonical(self, node: Node, key: str | None) -> None:
        if node.vertex.meta.ignore_cache and isinstance(node.vertex.op, ExecOp):
            # A process that runs again may write something else, so that what was built on the last run is stale.
            key = "n:" + os.urandom(16).hex()
        node.canonical = key
        # A key that was never seen is in no key that was: whoever uses this vertex misses too, or must look at its
        # files to know. So its result will be asked for, and independent work need not wait until it is.
        node.wanted = True
        if not self._dry:
            self.on_missed(node.vertex)
        self._key_found(node)

    def _key_found(self, node: Node) -> None:
        if node.cached is not None:
            node.reporter.end(cached=True)
        for user in node.users:
            self._key_of_input_found(user)
        if node.wanted:
            self._get_result(node)

    def _key_of_input_found(self, node: Node) -> None:
        node.keys_missing -= 1
        if not node.keys_missing:
            self._ready.append(node)

    # --- results ------------------------------------------------------------------------------------------------

    def _want(self, node: Node) -> None:
        """Ask for the node's result. A stack, since a chain of stages may be thousands deep."""
        stack = [node]
        while stack:
            node = stack.pop()
            if node.wanted or node.result is not None:
                continue
            node.wanted = True
            if node.canonical is not None:
                stack.extend(self._start_result(node))

    def _get_result(self, node: Node) -> None:
        for source in self._start_result(node):
            self._want(source)

    def _start_result(self, node: Node) -> list[Node]:
        """Move a node that has its key towards its result; answers the inputs that must be wanted for it."""
        if node.result is not None:
            return []
        if node.cached is not None:
            self._result_found(node, Result(node.cached.snapshot))
            return []
        missing = self._register(node, node.inputs)
        if not node.results_missing:
            self._run(node)
        return missing

    def _wait_for(self, node: Node, sources: list[Node]) -> None:
        missing = self._register(node, sources)
        if not node.results_missing:
            self._results_arrived(node)
        for source in missing:
            self._want(source)

    def _register(self, node: Node, sources: list[Node]) -> list[Node]:
        missing = list({id(source): source for source in sources if source.result is None}.values())
        node.results_missing = len(missing)
        for source in missing:
            source.waiters.append(node)
        return missing

    def _result_found(self, node: Node, result: Result) -> None:
        node.result = result
        waiters, node.waiters = node.waiters, []
        for waiter in waiters:
            waiter.results_missing -= 1
            if not waiter.results_missing:
                self._results_arrived(waiter)

    def _results_arrived(self, node: Node) -> None:
        if node.waiting_for_content:
            node.waiting_for_content = False
            unread = [index for index in node.content_inputs if index not in node.contents]
            self._digest_content(node, unread, partial(self._content_found, node))
        else:
            self._run(node)

    def _run(self, node: Node) -> None:
        if self._dry:
            return
        inputs = tuple(source.result for source in node.inputs if source.result is not None)

        def work() -> Callable[[], None]:
            try:
                result, cached = self._run_once(node, inputs)
            except BaseException as error:
                return self._when_explained(node, partial(self._run_failed, node, error))
            return self._when_explained(node, partial(self._has_run, node, result, cached=cached))

        if self.why_missed is not None:
            node.unexplained = True
            self._unexplained.append(node)
        self._submit(_lane(node.vertex), node, work)

    def _when_explained(self, node: Node, end: Callable[[float], Callable[[], None]]) -> Callable[[], None]:
        """Tell how a vertex has ended: at once, or else in the loop, which then has told why it ran."""
        now = time.time()
        if node.unexplained:
            return lambda: end(now)()
        return end(now)

    def _has_run(self, node: Node, result: Result, at: float, *, cached: bool) -> Callable[[], None]:
        node.reporter.end(cached=cached, at=at)
        return lambda: self._result_found(node, result)

    def _run_failed(self, node: Node, error: BaseException, at: float) -> Callable[[], None]:
        try:
            with blamed(node, at):
                raise error
        except BaseException as raised:
            failure = located(node, raised)
            return lambda: self._fail(failure)

    def _run_once(self, node: Node, inputs: tuple[Result, ...]) -> tuple[Result, bool]:
        """Run a vertex, unless another build that shares the store has just done so: its result, and whether it has."""
        canonical = node.canonical
        assert canonical is not None
        # Whoever waits for another build's work sees what for.
        node.reporter.start()
        if any(not source.exact for index, source in enumerate(inputs) if index not in node.content_inputs):
            # The key speaks of other files than those that are used.
            return replace(node.runner.run(node.vertex, inputs, node.reporter), exact=False), False
        with self._locks.hold(f"work/{canonical}", cancel=self._cancel):
            known = None if node.vertex.meta.ignore_cache else self._keys.lookup(canonical)
            if known is not None and known.result is not None:
                return Result(known.result.snapshot), True
            return self._run_and_record(node, inputs, canonical), False

    def _run_and_record(self, node: Node, inputs: tuple[Result, ...], canonical: str) -> Result:
        """Run a vertex and record its result under all of its keys."""
        result = node.runner.run(node.vertex, inputs, node.reporter)
        if result.exact:
            names = [canonical, *node.also_known_as]
            if node.definition is not None and all(source.exact for source in inputs):
                names.append(node.definition)
            self._keys.save(names, canonical, result.snapshot, self._emitter.masked(node.vertex.meta.name))
        return result

    def _end_contexts(self, nodes: Iterable[Node]) -> None:
        """End the contexts whose readers a failure kept from reading."""
        for node in nodes:
            if is_context(node.vertex) and node.reporter.event.completed is None:
                node.reporter.end(error="canceled" if isinstance(self._failure, CanceledError) else "")

    def _end_unneeded(self, nodes: Iterable[Node]) -> None:
        """Close the vertices that nothing had to be done for, because those that use them were cached."""
        for node in nodes:
            if node.reporter.event.completed is None and node.vertex.meta.name:
                node.reporter.end(cached=True)


def _lane(vertex: Vertex) -> Lane:
    if isinstance(vertex.op, ExecOp):
        return "step"
    return "source" if isinstance(vertex.op, SourceOp) else "file"
