"""The table of photographs: means of each method, and what differs photograph by photograph."""

from experiments.bench import photographs


def test_differences_are_paired_by_photograph():
    rows = []
    for number, name in enumerate(photographs.PHOTOGRAPHS):
        for spec in photographs.PATHS:
            for method, better in (("latent", 2.0), ("rgb", 0.0), ("none", -1.0)):
                values = dict.fromkeys(photographs.FIGURES, 20.0 + 5 * number + better)
                rows.append({"photograph": name, "path": spec, "method": method, **values})
    table = photographs.markdown({"model": "m", "device": "d", "rows": rows}).splitlines()
    assert [line.split(" | ")[0] for line in table[4:]] == [
        "| latent",
        "| rgb",
        "| none",
        "| latent minus rgb",
        "| latent minus none",
    ]
    assert "44.50 [" in table[4] and "2.00 [2.00, 2.00]" in table[7] and "3.00 [3.00, 3.00]" in table[8]
