"""Assignment of files to cluster workers, and suspicion of files after a death: the bookkeeping alone, without Dask."""

from concurrent.futures import Future

from indexer.cluster.assignment import COPY_AFTER_S, Assignment, File, Worker
from indexer.errors import DeferredError, ReaderDiedError
from indexer.files.audio.identity import Stat


def file(name, op="inspect", near=None):
    return File(
        op, name.encode(), name.encode(), Stat(1, 2, 3, 4), "id" if op == "embed" else None, Future(), near=near
    )


def assignment_to(*limits, embeds=True):
    assignment = Assignment()
    for n, limit in enumerate(limits):
        assignment.join(Worker(f"w{n}", limit, embeds))
    return assignment


def names(batch):
    return [f.path.decode() for f in batch.files]


def hand_out(assignment, at_s=0.0):
    return list(assignment.next_batches(at_s, eager=True))


def answer(assignment, batch, at_s=1.0):
    for f in batch.files:
        if not f.done:
            f.future.set_result("done")
    assignment.finished(batch, at_s, 0)


def test_work_in_flight_is_bounded_and_shared():
    assignment = assignment_to(6, 6)
    for n in range(100):
        assignment.add(file(str(n)))
    batches = hand_out(assignment)
    assert {m.address: m.in_flight for m in assignment.workers.values()} == {"w0": 6, "w1": 6}
    assert (
        max(len(b.files) for b in batches) == 2
    )  # several batches a worker, so that one decodes while the other travels
    assert assignment.waiting == 88
    assert hand_out(assignment) == []
    answer(assignment, batches[0])
    assert sum(len(b.files) for b in hand_out(assignment, 1.0)) == 2


def test_a_worker_that_answers_fast_gets_more_and_one_that_is_paused_nothing():
    assignment = assignment_to(6, 6)
    assignment.workers["w1"].paused = True
    for n in range(4000):
        assignment.add(file(str(n)))
    for turn in range(200):
        for batch in hand_out(assignment, turn * 0.02):
            answer(assignment, batch, turn * 0.02 + 0.01)
    assert assignment.workers["w0"].window["inspect"] > 50
    assert assignment.workers["w0"].window["embed"] == 6  # its speed of reading does not count as speed of embedding
    assert assignment.workers["w1"].inspected == 0


def test_a_file_is_embedded_where_it_was_read_unless_somebody_else_has_nothing_to_do():
    assignment = assignment_to(4, 4)
    for n in range(4):
        assignment.add(file(f"near {n}", "embed", near="w1"))
    batches = hand_out(assignment)
    assert sorted(n for b in batches for n in names(b)) == [f"near {n}" for n in range(4)]
    assert {b.worker.address for b in batches} == {"w0", "w1"}
    assignment.add(file("its own", "embed", near="w0"))
    assert [(b.worker.address, names(b)) for b in hand_out(assignment)] == [("w0", ["its own"])]


def test_workers_that_do_not_embed_only_read():
    assignment = assignment_to(4, embeds=False)
    assignment.add(file("a", "embed"))
    assignment.add(file("b"))
    assert [names(b) for b in hand_out(assignment)] == [["b"]]


def test_the_files_of_a_dead_worker_go_on_one_by_one_and_only_the_guilty_is_blamed():
    assignment = assignment_to(6, 6, 6, 6)
    files = [file(str(n)) for n in range(12)]
    for f in files:
        assignment.add(f)
    by_worker = {b.worker.address: b for b in hand_out(assignment)}
    suspects = [f for b in assignment.workers["w0"].batches.values() for f in b.files]
    for address in ("w1", "w2", "w3"):
        for batch in list(assignment.workers[address].batches.values()):
            answer(assignment, batch)
    guilty = suspects[1]
    assert by_worker["w0"] in assignment.lost("w0", blame=True)
    deaths = 0
    for turn in range(2, 40):
        for batch in hand_out(assignment, float(turn)):
            assert batch.alone
            assert len(batch.files) == 1
            if batch.files[0] is guilty:
                deaths += 1
                assignment.lost(batch.worker.address, blame=True)
                assignment.join(Worker(f"new {turn}", 6, True))
            else:
                answer(assignment, batch, turn + 0.5)
    assert deaths == 2
    assert isinstance(guilty.future.exception(), ReaderDiedError)
    assert guilty.future.exception().deaths == 2
    assert all(f.future.result() == "done" for f in files if f is not guilty)


def test_a_scheduler_that_went_is_no_files_fault():
    assignment = assignment_to(6)
    assignment.add(file("a"))
    hand_out(assignment)
    assignment.lost("w0", blame=False)
    assignment.join(Worker("w1", 6, True))
    (batch,) = hand_out(assignment)
    assert not batch.alone
    assert batch.files[0].deaths == 0


def test_what_takes_very_long_is_done_by_an_idle_worker_too_and_the_first_answer_counts():
    assignment = assignment_to(6, 6)
    slow = file("slow", "embed")
    assignment.add(slow)
    (batch,) = hand_out(assignment)
    assert list(assignment.copies(COPY_AFTER_S - 1)) == []
    (copy,) = assignment.copies(COPY_AFTER_S + 1)
    assert copy.worker is not batch.worker
    assert list(assignment.copies(COPY_AFTER_S + 2)) == []
    answer(assignment, copy, COPY_AFTER_S + 3)
    assignment.lost(batch.worker.address, blame=True)  # answered: no file waits, no file is suspected
    assert assignment.waiting == 0
    assert slow.future.result() == "done"


def test_a_batch_that_breaks_is_tried_elsewhere_and_not_for_ever():
    assignment = assignment_to(6)
    read, embedded = file("a"), file("b", "embed")
    for turn in range(3):
        if turn == 0:
            assignment.add(read)
            assignment.add(embedded)
        for _ in range(2):
            for batch in hand_out(assignment, float(turn)):
                assignment.broken(batch, "no memory")
    assert isinstance(read.future.exception(), DeferredError)
    assert isinstance(embedded.future.exception(), RuntimeError)
