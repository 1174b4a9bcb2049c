"""The page a person looks at after a build."""

from leandet.report.page import CurvePoint, Picture, write_report

__all__ = ["CurvePoint", "Picture", "write_report"]
