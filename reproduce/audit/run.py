"""The audit: all findings about the paper."""

from pathlib import Path

from reproduce import paper
from reproduce.audit.audit_data import AuditData, load_audit_data
from reproduce.audit.counted_findings import COUNTED_FINDINGS
from reproduce.audit.findings import Finding, ranked
from reproduce.audit.printed_findings import PRINTED_FINDINGS


def audit(results: Path, folder: Path = paper.FOLDER) -> tuple[AuditData, list[Finding]]:
    """Return what was audited, and what was found, ranked.

    Args:
        results: folder of the measured tables.
        folder: folder of the printed tables, claims, misprints, tolerances and sources.

    Raises:
        UserError: if a file is missing or malformed.
    """
    data = load_audit_data(results, folder)
    return data, ranked(find(data) for find in (*PRINTED_FINDINGS, *COUNTED_FINDINGS))
