"""Statuses of edges that tell of answers."""

from schemas.status import DIGEST, CatalogueStatus, EdgeStatus, VersionFigures


def figures(
    name: str,
    digest: bytes,
    answers: int,
    errors: int,
    accepted: int,
    drafted: int,
    tokens: int = 0,
    seconds_per_token: float = 0.05,
) -> VersionFigures:
    """Sums that an edge tells of a version."""
    return VersionFigures(
        name=name,
        digest=digest[:DIGEST].hex(),
        answers=answers,
        errors=errors,
        accepted=accepted,
        drafted=drafted,
        tokens=tokens,
        seconds=tokens * seconds_per_token,
    )


def edge_status(*versions: VersionFigures, edge: str = "e", family: str = "fam", life: int = 0) -> EdgeStatus:
    """Status of an edge that has written with these versions."""
    catalogue = CatalogueStatus(family=family, state="current")
    return EdgeStatus(
        state="online", epoch=5, at=0.0, edge=edge, catalogue=catalogue, versions=versions, life=life
    )
