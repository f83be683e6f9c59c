"""Judges requests with a cache, in a process of its own, with the words URL CACHE NUMBER OUT."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from safety_lightning.evaluation.judges import Delivery, JudgementCache, OpenAIJudge, judge_answers
from tests.evaluation.judges.conftest import make_requests

if __name__ == "__main__":
    url, cache_file, number, out = sys.argv[1:]
    judge = OpenAIJudge(base_url=url, delivery=Delivery(concurrency=8, first_wait_seconds=0.01))
    with JudgementCache(cache_file) as cache:
        judgements = judge_answers(judge, make_requests(int(number)), cache=cache, progress=False)
    Path(out).write_text(json.dumps([asdict(judgement) for judgement in judgements]))
