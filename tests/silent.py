"""What a trainer is given so that it prints nothing and writes no logs."""

from __future__ import annotations

from typing import Any

SILENT: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
