"""Has answers judged: each once, what is known from the cache, the rest by the judge, kept as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safety_lightning.evaluation.judges.cache import JudgementCache, make_key
from safety_lightning.evaluation.judges.protocol import Judge, Judgement, JudgeRequest

if TYPE_CHECKING:
    from tqdm import tqdm


def judge_answers(
    judge: Judge, requests: Sequence[JudgeRequest], *, cache: JudgementCache | None = None, progress: bool = True
) -> list[Judgement]:
    """Judges answers, asking the judge only for those that the cache does not know.

    Requests that are the same in prompt and answer are asked once. A score goes into the cache as soon as it comes, so
    that a killed run asks for no stored score again; only requests that were in flight, or whose score was not stored
    yet, can repeat. What stays unjudged is never stored and is asked again in the next run.

    Args:
        judge: The judge.
        requests: The answers with their prompts.
        cache: Where scores are kept; None keeps none.
        progress: Whether a progress bar is shown.

    Returns:
        One judgement a request, in their order.

    Raises:
        UserError: If nothing can be judged; see `Judge.judge`.
        RuntimeError: If the judge left an index out, gave one twice or gave one that there is not.
    """
    from tqdm import tqdm

    places: dict[JudgeRequest, list[int]] = {}
    for index, request in enumerate(requests):
        places.setdefault(request, []).append(index)
    known = {} if cache is None else _look_up(judge, list(places), cache)
    waiting = [request for request in places if request not in known]
    with tqdm(
        total=len(places), initial=len(known), desc=f"Judging ({judge.name})", unit="answer", disable=not progress
    ) as bar:
        known |= _ask(judge, waiting, cache, bar)
    judgements = {index: known[request] for request, indices in places.items() for index in indices}
    return [judgements[index] for index in range(len(requests))]


def is_known(judge: Judge, requests: Sequence[JudgeRequest], cache: JudgementCache) -> bool:
    """Says whether the cache has a score for every answer, so that the judge would not be asked."""
    return all(cache.get(make_key(judge, request)) is not None for request in requests)


def _look_up(judge: Judge, requests: Sequence[JudgeRequest], cache: JudgementCache) -> dict[JudgeRequest, Judgement]:
    found = {request: cache.get(make_key(judge, request)) for request in requests}
    return {request: judgement for request, judgement in found.items() if judgement is not None}


def _ask(
    judge: Judge, requests: Sequence[JudgeRequest], cache: JudgementCache | None, bar: tqdm
) -> dict[JudgeRequest, Judgement]:
    judged: dict[JudgeRequest, Judgement] = {}
    for index, judgement in judge.judge(requests) if requests else ():
        if not 0 <= index < len(requests) or requests[index] in judged:
            raise RuntimeError(f"judge {judge.name} must give each index once, got {index} again or out of range")
        request = requests[index]
        if cache is not None and judgement.score is not None:
            judgement = cache.put(make_key(judge, request), judge, judgement)
        judged[request] = judgement
        bar.update()
    if len(judged) != len(requests):
        raise RuntimeError(f"judge {judge.name} must judge {len(requests)} requests, got {len(judged)}")
    return judged
