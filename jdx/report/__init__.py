"""What a person looks at: contact sheets and the page `report.html`, made from the run folder alone."""

from jdx.report.page import write_report
from jdx.report.sheet import Tile, contact_sheet, style_sheet

__all__ = ["Tile", "contact_sheet", "style_sheet", "write_report"]
