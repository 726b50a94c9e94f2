"""Ranked galleries of single queries under several chains, for people: JSON, CSV and one HTML page.

    after = functools.partial(transform, query, gallery)
    lists = ranklists.collect(query, gallery, reports, after, dataset="market1501", label="osnet")
    ranklists.write(lists, "log")        # ranklists-osnet.json, ranklists-osnet.csv, ranklists-osnet.html

The page holds everything, each thumbnail once; it asks no network and works from ``file://``. The JSON is::

    {
      "dataset": "market1501", "label": "osnet", "metric": "euclidean", "depth": 10,
      "num_query": 3368, "num_gallery": 15913,                     all of them; "queries" holds some
      "chains": [{"name": "base", "protocol": "market1501", "mAP": 0.31, "rank1": 0.598,
                  "repaired": 0, "broken": 0}, ...],               over all queries, against the first chain
      "queries": [{
        "row": 17, "path": "query/0001_c1s1_001051_00.jpg", "pid": 1, "camid": 0,
        "chains": {"base": {
          "AP": 0.42, "first_match_rank": 3,                       null where the gallery holds no match
          "list": [{"path": "...", "pid": 1, "camid": 0, "distance": 0.31, "kind": "junk", "rank": null},
                   {"path": "...", "pid": 9, "camid": 3, "distance": 0.35, "kind": "miss", "rank": 1}, ...]
        }, ...}
      }, ...]
    }

Rates are fractions, camids start at 0 and are null where nothing is known of cameras. A list is ordered by
distance and ends with the image of rank ``depth``; ``junk`` stands in its place but has no rank. What the kinds mean: see ``lists.KINDS``. The CSV has
the same values, a row for each query, chain and place.
"""

from torchreid_genext.ranklists.files import write
from torchreid_genext.ranklists.lists import Place, RankLists, choose_queries, collect, ranked_lists

__all__ = ["Place", "RankLists", "choose_queries", "collect", "ranked_lists", "write"]
