"""Sentences of the page around its tabs: header, steps, jobs."""

from __future__ import annotations

TITLE = "Debias Studio"
TAGLINE = (
    "Find the images that a shortcut can't explain, make more like them, retrain, see what changed."
)
PROJECT = "Project"
NO_UPLOADS = "Nothing can be uploaded in the classroom."
STEPS = ("Data", "Audit", "Augment", "Curate", "Train", "Report")
LOCKED = {
    "Audit": "needs data",
    "Augment": "needs an audit",
    "Curate": "needs synthetic images",
    "Train": "needs synthetic images",
    "Report": "needs a training",
}

# Jobs
JOB_ACTIONS = {
    "keep": "Stop and keep",
    "now": "Stop now",
    "resume": "Resume",
    "half": "Resume with half the batch",
    "dismiss": "Dismiss",
}
CANCEL = "Cancel"
STARTING = "starting"
STOPPING = "stopping after the work under way"
SILENT_SECONDS = 20  # a job beats once a second
