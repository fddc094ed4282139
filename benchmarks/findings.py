"""Write benchmarks/reports/README.md: for each claim of the paper, whether it came out here, from committed rows alone.

Usage: ``python benchmarks/findings.py`` (``--readme`` also fills the README between its ``findings`` marks).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from findings_page.claims import claims
from findings_page.margins_or_weight import ablation, retuned
from findings_page.negatives_and_epochs import by_negatives, first_epochs
from findings_page.other_settings import crosscheck, held_out, plateau, strongest
from findings_page.progress import progress
from findings_page.public_anchors import anchors, public_logs
from findings_page.readme import readme_table
from marks import fill

from mml_plugin.files import atomic_write
from mml_plugin.report.pool import Pool

ROOT = Path(__file__).resolve().parents[1]
RESULTS, REPORTS = (ROOT / "benchmarks" / name for name in ("results", "reports"))


def findings(pool: Pool) -> str:
    """The whole page."""
    parts = [
        "# Findings",
        "Written by `python benchmarks/findings.py` from `benchmarks/results/`; do not edit by hand.",
        "Claims of the paper, and what came out here with the fast engine. Everything in the claims' sections is "
        "selected on test (protocol paper: best epoch on the test split, as the paper selects); the held-out protocol "
        "has sections of its own, and a line that says so in the next table.",
        *claims(pool),
        "## How many negatives each loss needs",
        "As in the paper each loss keeps its margins, weights or temperatures whatever the number.",
        by_negatives(pool),
        "## The first 20 epochs",
        "The same runs after 20 epochs, best of these on test: how fast each loss learns, not where it ends. No claim "
        "above is judged by them. The paper's early stopping ends MF at epoch 19.",
        first_epochs(pool),
        "## Is it the margins, or the weight?",
        "Held-out protocol. The paper keeps CCL at weight 150 and margin 0.9, tuned for 800 negatives; here both sides "
        "are given 25 tuning cells per number of negatives, of which the best three after 15 epochs get whole runs.",
        ablation(pool),
        "What was published and what tuning chose, on one split, selected on validation and measured on test. The "
        "loss's author tuned MML too, so CCL re-tuned is what it is fairly held against:",
        retuned(pool),
        "## CCL, BSL and MML under the held-out protocol",
        "Selected on validation; test ranked once.",
        held_out(pool),
        "## With the plateau schedule",
        "As RecZoo trains: at every epoch that does not improve the metric it watches the learning rate is cut tenfold "
        "and the best weights are put back; the third such epoch in a row ends the training. In the paper the "
        "schedule is off, and its whole runs do not stop early. Selected on test.",
        plateau(pool),
        "## Public anchors",
        "**Other settings than the paper's** (800 to 2000 negatives, other schedules), so not comparable with the "
        "tables above; selected on test. They say how far the same models have been taken by others.",
        anchors(pool),
        "RecZoo's logs are of an older recbox, whose negatives nobody can draw again. The same experiments beside "
        "them, epoch by epoch (best: of the metric that is watched, NDCG@20 for SimpleX on Gowalla, else Recall@20).",
        public_logs(pool),
        "## The strongest number of each loss here",
        "By Recall@20, over every setting that was run (paper's, plateau schedule, more negatives, authors' own), so "
        "NDCG@20 may be higher in another; tuning effort is not equal, not every loss was run at every number of "
        "negatives, and all are selected on test. So it says how far each was taken here, and ranks none.",
        strongest(pool),
        "## Both engines on the same experiments",
        "Selected on test. The engines draw different negatives from the same distribution, so they differ as two "
        "seeds may; fed the same batches and negatives they agree to rounding (tests).",
        crosscheck(pool),
        "## What has been run",
        progress(pool),
    ]  # fmt: skip
    if pool.left_out:
        parts.append(
            f"Left out, because newer rows of theirs have other settings or data: {', '.join(sorted(pool.left_out))}."
        )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=REPORTS / "README.md")
    parser.add_argument("--readme", action="store_true", help="also fill the README between its findings marks")
    options = parser.parse_args()
    pool = Pool(options.results)
    with atomic_write(options.out) as stream:
        stream.write(findings(pool))
    if options.readme:
        fill(ROOT / "README.md", {"findings": readme_table(pool)})


if __name__ == "__main__":
    main()
