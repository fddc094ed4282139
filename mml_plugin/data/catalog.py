"""The data sets that we know by name, and what their files must be."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class KnownDataset:
    """A published data set.

    Attributes:
        name: what users call it.
        repo: its data set repository on the Hugging Face Hub; "" for the synthetic one.
        md5: file name -> published md5 of ``train.txt`` and ``test.txt``.
        fingerprint: order-independent fingerprint of its interactions (see ``Interactions.fingerprint``).
        counts: users, items, train, test of the paper's Table 1.
    """

    name: str
    repo: str
    md5: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    counts: dict[str, int] = field(default_factory=dict)


KNOWN = {
    known.name: known
    for known in (
        KnownDataset(
            "yelp18",
            "reczoo/Yelp18_m1",
            {"train.txt": "1b8b5d22a227e01d6de002c53d32b4c4", "test.txt": "0d57d7399862c32152b045ec5d2698e7"},
            "b1bb33dac2380d6517653af56e4184c63b36ceb2151a5f6d9b97fdcc5e60b25f",
            {"users": 31668, "items": 38048, "train": 1237259, "test": 324147},
        ),
        KnownDataset(
            "gowalla",
            "reczoo/Gowalla_m1",
            {"train.txt": "5eec1eb2edb8dd648377d348b8e136cf", "test.txt": "c04e2c4bcd2389f53ed8281816166149"},
            "d04992f528fb1354f3331ad96868b9818979230bb5340a61c66f002ff268654b",
            {"users": 29858, "items": 40981, "train": 810128, "test": 217242},
        ),
    )
}
