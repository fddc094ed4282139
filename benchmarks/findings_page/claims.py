"""The paper's claims, one section each, and their verdicts in short."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from findings_page.early_stopping import early_stopping
from findings_page.epoch_time import epoch_time
from findings_page.margins_or_weight import against_retuned
from findings_page.negatives_and_epochs import mml_to
from findings_page.other_settings import plateau_pairs
from findings_page.paper import (
    COLUMNS,
    DATASETS,
    FOLDERS,
    Comparison,
    gains_at_10,
    gains_at_100,
    gains_over_mse,
    printed,
    printed_gain,
)
from findings_page.words import ANYTHING, Section, judged
from mml_plugin.report.comparison import METRICS
from mml_plugin.report.gain import PAR
from mml_plugin.report.pool import Pool
from mml_plugin.report.statistics import MIN_SEEDS
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_RUN, short, signed

RULE = (
    "The verdict on a gain follows a fixed rule: **yes** when the sign is the paper's, the 95 % interval over users "
    f"excludes 0 (with {MIN_SEEDS} seeds or more the paired t interval over seeds too) and the gain is at least half "
    "the paper's (where the paper prints no figure, any gain of that sign); **smaller** when only the size is "
    "missing; **no difference seen** when an interval includes 0; **no** when the sign is the other one. Without an "
    "interval over users there is no verdict on a gain; time per epoch, early stopping and being on par have rules of "
    "their own, below their tables. The interval over users says whether other users would show the same for these "
    f"very trainings, not whether another seed would: a verdict on fewer than {MIN_SEEDS} seeds says so. sd is the "
    "standard deviation of the difference over seeds, t the paired t interval over seeds. Each interval is of one "
    "comparison; none is corrected for how many there are (the suites' reports correct theirs)."
)
SHARED = (
    "A mean is over all seeds that a loss was trained with, a gain over those that both sides have, so a gain need not "
    "be the quotient of two means. The page takes the runs of all suites together; a suite's own report, linked at the "
    "end, has the seeds that the suite asks for."
)
FEW, MANY = (10, 50, 100), (200, 400, 800)
TUNED_FOR_800 = (
    "CCL has the margin and weight that were published for 800 negatives; the section on margins and weight says how "
    "much of this gain a CCL re-tuned for 10 makes good."
)
ON_PAR = (
    f"**yes**: the 95 % interval over users lies within {PAR:g} % either way; **no**: it lies beyond {PAR:g} % on one "
    "side; **undecided** otherwise. One side is **ahead** where the interval excludes 0. All this holds for the paired "
    f"t interval over seeds too, with {MIN_SEEDS} seeds or more. \"as in the paper\": its own figures are out of "
    "par on that side, too. The paper's BSL rows come from its authors' own code, so the second line of each pair is "
    "the one that stands for them."
)  # fmt: skip
BSL_RUNS = {"bsl": "BSL in the same pipeline", "bslnative": "BSL in its authors' setting"}
BY_SIGN = (
    "Section 4.2 on Figure 3, which prints no values: any difference of the claimed sign will do. Where the paper "
    "prints figures elsewhere (at 10 and 100 negatives), their size is judged in the sections on those; its own Table "
    "4 has MML level with BSL on Yelp2018 at 100, and behind it in NDCG@20 on Gowalla. Ours are in the section on how "
    "many negatives each loss needs."
)


def claims(pool: Pool) -> list[str]:
    """The parts of the page that judge the paper's claims: in short, the rule, then each claim's table."""
    sections = {
        "MML beats CCL at 100 negatives": _gain_table(pool, gains_at_100()),
        "MML beats CCL at 10 negatives, on Yelp2018 by about 20 %": _gain_table(pool, gains_at_10(), TUNED_FOR_800),
        "MML beats CCL and BSL at 100 negatives or fewer": by_sign(pool, FEW, {"CCL": 1, "BSL": 1}),
        "With more negatives MML beats CCL, and BSL beats MML": by_sign(pool, MANY, {"CCL": 1, "BSL": -1}),
        "MML beats MSE, the best traditional loss": _gain_table(pool, gains_over_mse()),
        "Time per epoch grows by at most 2 seconds": epoch_time(pool),
        "Early stopping hurts": early_stopping(pool),
        "On par with BSL at 100 negatives": on_par(pool),
    }
    lines = [[name, _counted(verdicts)] for name, (_, verdicts) in sections.items()]
    lines.append(["not the paper's: MML beats CCL, both with the plateau schedule", _counted(_with_plateau(pool))])
    said = "not the paper's: MML as published beats CCL re-tuned (held-out, Yelp2018, 10 and 100 negatives)"
    lines.append([said, _counted(against_retuned(pool)) or NOT_RUN])
    in_short = markdown_table(["claim", "rows of its table below"], lines, left=2)
    parts = ["## In short", in_short, RULE, SHARED]
    for name, (text, _) in sections.items():
        parts += [f"## {name}", text]
    return parts


def by_sign(pool: Pool, counts: Sequence[int], signs: Mapping[str, int]) -> Section:
    """Whether MML is above (1) or below (-1) other losses with as many negatives.

    Args:
        counts: of negatives.
        signs: the other loss and the sign that the paper claims of MML's gain over it.
    """
    lines = [
        [f"{f'MML ahead of {loss}' if sign > 0 else f'{loss} ahead of MML'}, {dataset}", short(metric),
         *(mml_to(loss, count, pool, data, count, metric).verdict(sign * ANYTHING) for count in counts)]
        for loss, sign in signs.items() for data, dataset in DATASETS.items() for metric in METRICS
    ]  # fmt: skip
    table = markdown_table(["MF", "metric", *(f"{count} negatives" for count in counts)], lines, left=2)
    return f"{table}\n\n{BY_SIGN}", [verdict for line in lines for verdict in line[2:]]


def _with_plateau(pool: Pool) -> list[str]:
    """Whether MML is above CCL where both have the schedule that the paper switched off."""
    return [pool.gain(*pair, metric).verdict(ANYTHING) for pair in plateau_pairs().values() for metric in METRICS]


def _counted(verdicts: Sequence[str]) -> str:
    """``3 yes (1 seed); 1 not run yet``."""
    found = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    return "; ".join(f"{count} {verdict}" for verdict, count in found.items())


def _gain_table(pool: Pool, comparisons: Iterable[Comparison], note: str = "") -> Section:
    lines = []
    for name, first, second, claims_of_paper in comparisons:
        for metric, claimed in zip(METRICS, claims_of_paper):
            gain = pool.gain(first, second, metric)
            lines.append([name, short(metric), signed(claimed), gain.words(), gain.verdict(claimed)])
    return judged(["", "metric", "paper", "here", "verdict"], lines, note, left=2)


def on_par(pool: Pool) -> Section:
    """MML to BSL on MF at 100 negatives: in the same pipeline, and in the setting of BSL's authors."""
    lines = []
    for data, folder in FOLDERS.items():
        rows = {r["loss"]: r for r in printed("table4_losses") if r["dataset"] == folder}
        for metric, column in zip(METRICS, COLUMNS):
            claimed = printed_gain(rows["BSL"], rows["MML"], column)
            for run, said in BSL_RUNS.items():
                gain = pool.gain(f"MF_{data}_{run}", f"MF_{data}_mml", metric)
                name = f"MML to {said}, {DATASETS[data]}"
                verdict = gain.parity("MML", "BSL", claimed)
                lines.append([name, short(metric), signed(claimed), gain.words(), verdict])
    return judged(["MF", "metric", "paper", "here", "on par"], lines, ON_PAR, left=2)
