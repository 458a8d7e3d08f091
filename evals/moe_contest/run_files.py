"""What one contest leaves in its run directory beside ``run.json``."""

from __future__ import annotations

from mxmoe.conformance.escape import printable
from mxmoe.conformance.rundir import RunWriter
from mxmoe.evals.moe_contest.result import Result
from mxmoe.evals.moe_contest.table import table_lines
from mxmoe.evals.moe_contest.table import write_csv


def write_files(writer: RunWriter, result: Result, shape: str) -> list[str]:
    """Write bench.csv, moe.csv, table.txt, roofline.png; return the table's lines."""
    writer.bench(
        ("contestant", "tokens", "replay", "seconds"),
        [
            (name, cell.tokens, number, seconds)
            for name, cells in result.outcome.cells.items()
            for cell in cells
            for number, seconds in enumerate(cell.seconds)
        ],
    )
    rows = result.rows()
    write_csv(writer.folder / "moe.csv", rows, result.candidate)
    ceilings = result.ceilings
    title = f"{shape} on {result.device}"
    lines = [
        f"{title}: copy {ceilings.copy_bytes_per_second / 1e12:.3g} TB/s, "
        f"bf16 matmul {ceilings.matmul_flops_per_second / 1e12:.3g} TFLOP/s",
        *table_lines(rows, result.names, result.candidate),
    ]
    for name, reason in result.outcome.unavailable.items():
        lines.append(f"unavailable: {name}: {reason}")
    lines = [printable(line) for line in lines]
    text = "\n".join(lines) + "\n"
    (writer.folder / "table.txt").write_text(text, encoding="utf-8")
    return lines + _picture(writer, result, title)


def _picture(writer: RunWriter, result: Result, title: str) -> list[str]:
    try:
        from mxmoe.evals.moe_contest.roofline import draw_roofline
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        return ["no roofline.png: matplotlib is not installed (extra: report)"]
    draw_roofline(writer.folder / "roofline.png", result, title)
    return []
