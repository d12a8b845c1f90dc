"""The results as JSON: all turns, and the medians, ratios and goals that follow from them.

Runs in the main thread of the benchmark program; owns nothing.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.columns import COLUMNS, FAMILIES, compared, ratios
from benchmarks.peers import PEERS
from benchmarks.plan import WORKS
from benchmarks.results import Results
from benchmarks.work import Reading, Work


def as_json(results: Results, machine: dict[str, str], rounds: int, seconds: int) -> str:
    """Return everything as JSON, one turn a line."""
    turns = [turn for work in results.plan.works for turn in _turns(results, work)]
    turns += [_turn(WORKS[work], peer, reading) | {"discarded": True} for work, peer, reading in results.discarded]
    head = {
        "machine": machine,
        "rounds": rounds,
        "seconds": seconds,
        "columns": {column.key: column.title for column in COLUMNS},
        "works": [_work(results, work) for work in results.plan.works],
    }
    lines = ",\n".join(json.dumps(turn, ensure_ascii=False) for turn in turns)
    return json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f',\n "turns": [\n{lines}\n ]\n}}\n'


def _turns(results: Results, work: Work) -> list[dict[str, Any]]:
    """Return the turns of a work, in their order."""
    found = []
    for peer in results.plan.peers(work):
        good = results.turns(work, peer.name)
        for place, reading in results.all_turns(work, peer.name).items():
            found.append(_turn(work, peer.name, reading) | {"place": place, "counts": place in good})
    return sorted(found, key=lambda turn: turn["place"])


def _turn(work: Work, peer: str, reading: Reading) -> dict[str, Any]:
    turn = {
        "work": work.name,
        "server": peer,
        "columns": [column.key for column in COLUMNS if column.has(PEERS[peer])] if compared(work) else [],
        "round": reading.round + 1,
        "figures": {name: float(f"{value:.5g}") for name, value in reading.figures.items()},
        "steal": round(reading.stolen, 3),
    }
    if reading.meter:
        turn |= {"server_cpu": round(reading.meter.server, 3), "load_cpu": round(reading.meter.load, 3)}
    return turn


def _work(results: Results, work: Work) -> dict[str, Any]:
    """Return what follows from the turns of a work."""
    servers = {
        peer.name: {
            "title": peer.title,
            "medians": {metric.name: results.figure(work, peer.name, metric.name) for metric in work.metrics},
            "ratios": {metric.name: results.ratio(work, metric.name, peer.name) for metric in work.metrics},
            "server_and_load_cpu": results.busy(work, peer.name),
            "failure": results.failures.get((work.name, peer.name)),
        }
        for peer in results.plan.peers(work)
    }
    goals = [
        {
            "metric": verdict.metric.name,
            "of": work.subject,
            "against": verdict.goal.against,
            "figure": verdict.figure,
            "at_least": verdict.goal.at_least,
            "at_most": verdict.goal.at_most,
            "reached": verdict.reached,
        }
        for verdict in results.verdicts(work)
    ]
    found = {
        "name": work.name,
        "title": work.title,
        "load": work.load,
        "units": {metric.name: metric.unit for metric in work.metrics},
        "servers": servers,
        "goals": goals,
    }
    if compared(work):
        found["like_for_like"] = {family: ratios(results, work, family) for family in FAMILIES}
    return found
